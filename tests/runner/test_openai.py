"""The OpenAI protocol: fields, answers, streams, errors and clients that go away; over a slot without an engine."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmctl.domain import Chunk, GenerateRequest, Identity, Limits, Sampling, TokenLogprob, Usage
from llmctl.errors import LlmctlError, RequestError
from llmctl.runner.protocols import openai_answers
from llmctl.runner.protocols.asked import Asked
from llmctl.runner.protocols.openai_answers import Answer, ChatAnswer
from llmctl.runner.protocols.openai_completion_answer import CompletionAnswer
from llmctl.runner.protocols.openai_completions import read_completion
from llmctl.runner.protocols.openai_fields import read_chat
from tests.clients import sse
from tests.conftest import eventually
from tests.runner.fake_slot import (
    GOOD,
    FakeService,
    FakeSlot,
    Response,
    connect,
    dechunk,
    post,
    raw,
    read_response,
    serve,
)

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TEXT = "Hello wörld \U0001f600!"


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        yield slot


def chat(slot: FakeSlot, **fields: Any) -> Response:
    return raw(slot.port, post(CHAT, json.dumps({**GOOD, **fields}).encode()))


def complete(slot: FakeSlot, **fields: Any) -> Response:
    return raw(slot.port, post(COMPLETIONS, json.dumps({"prompt": "hi", **fields}).encode()))


def get(slot: FakeSlot, path: str) -> Response:
    return raw(slot.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def stream(response: Response) -> list[Any]:
    assert response.status == 200 and response.headers["content-type"].startswith("text/event-stream")
    return sse(dechunk(response.body).decode())


# ── what reaches the engine ─────────────────────────────────────────────────────────────────────────────────────────


def test_every_field_reaches_the_request() -> None:
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": -1,
        "frequency_penalty": 2, "seed": -1, "logit_bias": {"5": -100, "7": 1.5}, "max_tokens": 9, "n": 3,
        "stop": ["a", "b"], "stop_token_ids": [3], "ignore_eos": True, "logprobs": True, "top_logprobs": 4,
        "stream": True, "stream_options": {"include_usage": True}, "model": "alpha",
    }  # fmt: skip
    asked = read_chat(body, 60.0)
    sampling = Sampling(0.5, 0.9, 40, 0.1, 1.1, -1.0, 2.0, 2**64 - 1, ((5, -100.0), (7, 1.5)))
    assert asked.request == GenerateRequest(
        asked.request.id, ({"role": "user", "content": "hi"},), sampling=sampling, max_tokens=9, n=3, stop=("a", "b"),
        stop_ids=(3,), logprobs=4, ignore_eos=True, time_cap=60.0,
    )  # fmt: skip
    assert (asked.model, asked.stream, asked.include_usage) == ("alpha", True, True)


def test_defaults_are_openai_s() -> None:
    asked = read_chat(GOOD, 60.0)
    assert asked.request == GenerateRequest(asked.request.id, tuple(GOOD["messages"]), time_cap=60.0)
    assert (asked.model, asked.stream, asked.include_usage) == (None, False, False)
    assert read_completion({"prompt": "hi"}, 60.0).request.max_tokens == 16
    assert read_chat({**GOOD, "top_k": -1, "stop": "x"}, 1.0).request.stop == ("x",)
    assert read_chat({**GOOD, "logprobs": True}, 1.0).request.logprobs == 0
    both = {**GOOD, "max_tokens": 5, "max_completion_tokens": 7}
    assert read_chat(both, 1.0).request.max_tokens == 7


@pytest.mark.parametrize(
    ("prompt", "expected"), [("hi", "hi"), (["hi"], "hi"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ([0], (0,))]
)
def test_prompts(prompt: Any, expected: Any) -> None:
    body = {"prompt": prompt, "echo": True, "logprobs": 3, "max_tokens": 1}
    request = read_completion(body, 1.0).request
    assert (request.prompt, request.echo, request.logprobs) == (expected, True, 3)


def test_messages_become_plain_text() -> None:
    messages = [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}], "name": "n"},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "d", "tool_call_id": "t"},
    ]
    assert read_chat({"messages": messages}, 1.0).request.messages == (
        {"role": "system", "content": "a"},
        {"role": "user", "content": "bc", "name": "n"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "d", "tool_call_id": "t"},
    )


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("temperature", [0, 2, 0.5]), ("top_p", [1, 0.0001]), ("top_k", [-1, 0, 2**31 - 1]), ("min_p", [0, 1]),
        ("repetition_penalty", [0.001, 10]), ("presence_penalty", [-2, 2]), ("frequency_penalty", [-2, 2]),
        ("seed", [-(2**63), 0, 2**64 - 1]), ("n", [1, 16]), ("stop", ["x" * 1024, ["x"] * 16, []]),
        ("logit_bias", [{}, {str(i): -100 for i in range(1024)}]), ("max_tokens", [1]), ("stop_token_ids", [[], [0]]),
    ],
)  # fmt: skip
def test_the_ends_of_every_range_are_taken(name: str, good: list[Any]) -> None:
    for value in good:
        read_chat({**GOOD, name: value}, 1.0)


# ── whole answers ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chat_completion(slot: FakeSlot) -> None:
    answer = chat(slot, n=2).json()
    assert answer.pop("id").startswith("chatcmpl-") and answer.pop("created") > 1.7e9
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    assert answer == {
        "object": "chat.completion",
        "model": "alpha",
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"},
            {"index": 1, "message": message, "logprobs": None, "finish_reason": "length"},
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 8,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


def test_the_usage_tells_what_a_draft_was_good_for() -> None:
    answer = ChatAnswer(Asked(GenerateRequest("x")), "alpha", 3)
    answer.add([Chunk("x", text="yes", finish="stop")])
    usage = answer.whole(Usage(3, 9, 0, drafted=8, agreed=6))["usage"]
    assert usage["completion_tokens"] == 9
    assert usage["completion_tokens_details"] == {"accepted_prediction_tokens": 6, "rejected_prediction_tokens": 2}


def test_a_text_completion_with_logprobs(slot: FakeSlot) -> None:
    answer = complete(slot, logprobs=1).json()
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    words = ["Hello", " wörld", " \U0001f600", "!"]
    assert answer["choices"] == [
        {
            "index": 0,
            "text": TEXT,
            "logprobs": {
                "tokens": words,
                "token_logprobs": [-0.5] * 4,
                "top_logprobs": [{word: -0.5} for word in words],
                "text_offset": [0, 5, 11, 13],
            },
            "finish_reason": "length",
        }
    ]


def test_chat_logprobs(slot: FakeSlot) -> None:
    found = chat(slot, logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    one = {"token": " \U0001f600", "logprob": -0.5, "bytes": list(" \U0001f600".encode())}
    assert found[2] == {**one, "top_logprobs": [one]} and len(found) == 4


def test_models(slot: FakeSlot) -> None:
    listed = get(slot, "/v1/models").json()
    assert listed["object"] == "list" and [model["id"] for model in listed["data"]] == ["alpha", "first"]
    assert get(slot, "/v1/models/first").json() == listed["data"][1]
    missing = get(slot, "/v1/models/org/other")
    assert missing.status == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_what_a_model_can_is_told_and_still_known_while_it_sleeps(slot: FakeSlot) -> None:
    slot.service.loaded = None
    (unknown, _) = get(slot, "/v1/models").json()["data"]
    assert unknown["context_length"] is None and unknown["aliases"] == ["first"]
    slot.service.loaded = Identity(
        "alpha", "torch", "llama", 512, 1000, 4, capabilities=("tools", "logprobs"), inputs=("text", "image")
    )
    (alpha, first) = get(slot, "/v1/models").json()["data"]
    assert alpha | {"created": 0} == {
        "id": "alpha", "object": "model", "created": 0, "owned_by": "llmctl", "root": "alpha", "aliases": ["first"],
        "context_length": 512, "max_model_len": 512, "engine": "torch", "architecture": "llama", "dtype": "",
        "adapters": [], "capabilities": ["tools", "logprobs"],
        "modalities": {"input": ["text", "image"], "output": ["text"]},
    }  # fmt: skip
    assert first["aliases"] == ["alpha"] and first["root"] == "alpha"
    slot.service.loaded = None
    assert get(slot, "/v1/models").json()["data"] == [alpha, first]


def test_routes_and_methods(slot: FakeSlot) -> None:
    assert get(slot, "/v1/nothing").status == get(slot, "/nothing").status == 404
    wrong = get(slot, CHAT)
    assert wrong.status == 405 and wrong.headers["allow"] == "POST"
    assert raw(slot.port, post("/health", b"")).headers["allow"] == "GET"


# ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chat_stream(slot: FakeSlot) -> None:
    found = stream(chat(slot, stream=True))
    assert found.pop() == "[DONE]"
    assert {(e["object"], e["model"], len({e["id"]})) for e in found} == {("chat.completion.chunk", "alpha", 1)}
    assert all("usage" not in e for e in found)
    deltas = [e["choices"][0]["delta"] for e in found]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(d.get("content", "") for d in deltas) == TEXT
    assert [e["choices"][0]["finish_reason"] for e in found] == [None] * 5 + ["length"]


def test_a_stream_of_several_with_usage(slot: FakeSlot) -> None:
    found = stream(chat(slot, stream=True, n=3, stream_options={"include_usage": True}))
    assert found.pop() == "[DONE]"
    usage = found.pop()
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 12
    assert all(e["usage"] is None for e in found)
    for index in range(3):
        mine = [e["choices"][0] for e in found if e["choices"][0]["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in mine) == TEXT
        assert mine[0]["delta"]["role"] == "assistant" and mine[-1]["finish_reason"]


def test_a_text_stream_says_what_the_whole_says(slot: FakeSlot) -> None:
    found = stream(complete(slot, stream=True, logprobs=1))
    whole = complete(slot, logprobs=1).json()["choices"][0]
    assert found.pop() == "[DONE]"
    choices = [e["choices"][0] for e in found]
    assert "".join(c["text"] for c in choices) == whole["text"]
    for name in ("tokens", "text_offset", "token_logprobs"):
        assert [one for c in choices if c["logprobs"] for one in c["logprobs"][name]] == whole["logprobs"][name]


def test_what_waited_for_a_slow_reader_is_sent_as_one() -> None:
    request = GenerateRequest("id", n=2)
    answer = ChatAnswer(Asked(request, stream=True), "alpha", 3)
    chunks = [Chunk("id", i % 2, str(i)) for i in range(1000)] + [Chunk("id", 1, "!", finish="stop")]
    found = sse(answer.events(chunks).decode())
    assert len(found) == 5
    assert found[3]["choices"][0]["delta"]["content"] == "".join(str(i) for i in range(1, 1000, 2)) + "!"
    few = chunks[: openai_answers.MERGE]
    assert len(sse(answer.events(few).decode())) == openai_answers.MERGE


@pytest.mark.parametrize("kind", [ChatAnswer, CompletionAnswer])
def test_what_json_cannot_say_is_said_otherwise(kind: type[Answer]) -> None:
    answer = kind(Asked(GenerateRequest("id", logprobs=0), stream=True), 'a"b', 3)
    odd, inf = '\u2028"\\\n\x00\ud800</script>', float("-inf")
    impossible = TokenLogprob("\ud800", 1, inf, (("y", 2, inf),))
    data = answer.events([Chunk("id", 0, odd), Chunk("id", 0, "x", logprobs=(impossible,))])
    assert b"\n" not in data.replace(b"\n\n", b"") and b"Infinity" not in data
    found = sse(data.decode())
    choices = [event["choices"][0] for event in found]
    assert odd in [choice.get("text", choice.get("delta", {}).get("content")) for choice in choices]
    assert found[0]["model"] == 'a"b'


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


LOADING = {"state": "starting", "progress": {"stage": "load"}, "retry_after": 7, "log": ["secret"]}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (RequestError("too long", param="messages", code="context_length_exceeded"), 400),
        (RequestError("full", status=429, code="queue_full", details={"retry_after": 0.2}), 429),
        (RequestError("loading", status=503, code="unavailable", hint="llmctl status 8101", details=LOADING), 503),
        (LlmctlError("engine trouble", details={"log": ["secret"]}), 500),
    ],
)  # fmt: skip
def test_a_refusal_has_the_same_status_streamed_or_not(
    slot: FakeSlot, refusal: LlmctlError, status: int, streamed: bool
) -> None:
    slot.service.refusal = refusal
    response = chat(slot, stream=streamed)
    assert response.status == status and b"secret" not in response.body
    error = response.json()["error"]
    assert (error["message"], error["code"]) == (refusal.message, refusal.code)
    if "retry_after" in refusal.details:
        assert response.headers["retry-after"] == ("1" if status == 429 else "7")
    if status == 503:
        assert error["details"] == {k: v for k, v in LOADING.items() if k != "log"} and error["hint"] == refusal.hint


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("failure", [RequestError("died", status=500, code="engine_died"), LlmctlError("not finite")])
def test_an_engine_that_fails_before_its_first_chunk(slot: FakeSlot, failure: LlmctlError, streamed: bool) -> None:
    slot.service.fail_at, slot.service.failure = 0, failure
    response = chat(slot, stream=streamed)
    assert response.status == 500 and response.json()["error"]["message"] == failure.message


def test_an_engine_that_fails_in_the_middle(slot: FakeSlot) -> None:
    """One error event, one terminator; without streaming an error and no half of an answer."""
    slot.service.fail_at = 2
    *before, error, done = stream(chat(slot, stream=True))
    assert done == "[DONE]" and error["error"]["code"] == "engine_died" and error["error"]["type"] == "server_error"
    assert [e["choices"][0]["delta"]["content"] for e in before] == ["", "Hello", " wörld"]
    assert chat(slot).status == 500
    assert slot.service.active == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_bug_of_ours_is_a_500_and_its_text_stays_out_of_the_log(
    slot: FakeSlot, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    slot.service.fail_at, slot.service.failure = 0, KeyError("canary-of-a-prompt")
    with caplog.at_level(logging.DEBUG):
        response = chat(slot, stream=streamed)
    assert response.status == 500 and response.json()["error"]["message"] == "internal error"
    assert "KeyError" in caplog.text and "fake_slot.py" in caplog.text
    assert "canary" not in caplog.text and b"canary" not in response.body


def test_a_bug_in_the_middle_of_a_stream_cuts_the_connection(slot: FakeSlot, caplog: pytest.LogCaptureFixture) -> None:
    slot.service.fail_at, slot.service.failure = 2, KeyError("x")
    with pytest.raises(ConnectionError):
        chat(slot, stream=True)
    assert chat(slot).status == 500
    assert slot.service.active == 0
    assert "KeyError in a handler" in caplog.text and "Exception in ASGI" not in caplog.text


def test_a_request_cut_by_the_end_of_the_server_gets_503(slot: FakeSlot) -> None:
    slot.service.accept_after = 1000
    with connect(slot.port) as sock:
        sock.sendall(post(CHAT, json.dumps(GOOD).encode()))
        eventually(lambda: slot.service.waiting == 1)
        (task,) = slot.server.server_state.tasks
        task.get_loop().call_soon_threadsafe(task.cancel)
        response = read_response(sock)
        assert response.status == 503 and response.json()["error"]["code"] == "unavailable"
        eventually(lambda: slot.service.waiting == 0)


# ── clients that go away ────────────────────────────────────────────────────────────────────────────────────────────


def leave(slot: FakeSlot, request: bytes, ready: Callable[[], Any]) -> None:
    """Send a request and go away when `ready`."""
    with connect(slot.port) as sock:
        sock.sendall(request)
        eventually(ready)


@pytest.mark.parametrize("streamed", [False, True])
def test_l03_a_client_that_leaves_ends_its_request(streamed: bool) -> None:
    request = post(CHAT, json.dumps({**GOOD, "stream": streamed}).encode())
    with serve(FakeService(words=["x"] * 1000, pause=0.1)) as slot:
        leave(slot, request, lambda: slot.service.active == 1)
        eventually(lambda: slot.service.active == 0)
        eventually(lambda: not slot.server.server_state.tasks)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_leaves_while_it_waits_for_the_engine(streamed: bool) -> None:
    request = post(CHAT, json.dumps({**GOOD, "stream": streamed}).encode())
    with serve(FakeService(accept_after=1000)) as slot:
        leave(slot, request, lambda: slot.service.waiting == 1)
        eventually(lambda: slot.service.waiting == 0)
        eventually(lambda: not slot.server.server_state.tasks)


def test_a_client_that_leaves_with_another_request_behind_is_noticed() -> None:
    request = post(CHAT, json.dumps(GOOD).encode())
    with serve(FakeService(words=["x"] * 1000, pause=0.1)) as slot:
        with connect(slot.port) as sock:
            sock.sendall(request)
            eventually(lambda: slot.service.active == 1)
            sock.sendall(request)
            (connection,) = slot.server.server_state.connections
            eventually(lambda: connection.conn.trailing_data[0])  # type: ignore[union-attr]
        eventually(lambda: slot.service.active == 0)
        assert len(slot.service.seen) == 1


def test_one_that_sends_a_flood_behind_its_request_is_not_read() -> None:
    request = post(CHAT, json.dumps(GOOD).encode())
    with serve(FakeService(Limits(), words=["x"] * 1000, pause=0.1)) as slot, connect(slot.port) as sock:
        sock.sendall(request)
        sock.settimeout(1.0)
        with pytest.raises(TimeoutError), contextlib.suppress(BrokenPipeError):
            for _ in range(1000):
                sock.sendall(b"x" * 2**16)
        connection = next(iter(slot.server.server_state.connections))
        assert len(connection.conn.trailing_data[0]) < 2**20  # type: ignore[union-attr]
        sock.shutdown(socket.SHUT_RDWR)
