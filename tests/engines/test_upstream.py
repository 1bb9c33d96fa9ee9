"""The upstream engine against a server that does as it is told: words there and back, refusals, faults."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from llmctl.domain import (
    CANCELLED,
    JSON_OBJECT,
    JSON_SCHEMA,
    REGEX,
    STOP,
    TIME,
    TOOLS,
    CallPiece,
    Format,
    Media,
    Sampling,
    Usage,
)
from llmctl.engines import upstream
from llmctl.errors import LlmctlError, LoadFailed, RequestError, Unsupported
from llmctl.servers import Server
from tests.conftest import eventually, free_port
from tests.engines import odd_server
from tests.engines.odd_server import ANSWER
from tests.engines.upstream_bench import GREEDY, Bench

TOOL = {"name": "clock", "description": "tells the time", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def server() -> Iterator[odd_server.Server]:
    running = odd_server.started()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def bench(server: odd_server.Server) -> Iterator[Bench]:
    """Attached to the server as to a vllm; a silence of 1 s is a stall."""
    made = Bench(
        Server(kind="vllm", url=server.url, stall=1.0, inputs=("text", "image"), tasks=("tokenize", "embed", "rerank"))
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain(server: odd_server.Server) -> Iterator[Bench]:
    """The same, of a kind of which no more is known than the dialect."""
    made = Bench(Server(url=server.url + "/v1/", ready="/health", stall=10.0))
    yield made
    made.close()


def sent(server: odd_server.Server) -> dict[str, Any]:
    """The last request that the server got."""
    return dict(server.seen[-1]["body"])


# ── right answers ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("question", ["What is a slot?", "in pieces", "json answer"])
def test_an_answer_is_the_same_however_it_comes(bench: Bench, question: str) -> None:
    heard = bench(question)
    assert (heard.text(), heard.ends(), heard.error) == (ANSWER, {0: STOP}, None)
    assert heard.last.usage == Usage(7, 8, 3)


def test_a_stream_comes_as_it_is_made(bench: Bench) -> None:
    began = time.monotonic()
    id = bench.begin("drip")
    bench.queue.get(timeout=30)
    first = bench.queue.get(timeout=30)
    assert first.text == "A" and first.tokens == 1
    heard = bench.heard(id)
    assert heard.text() == ANSWER[1:] and time.monotonic() - began > 1.4


def test_who_it_is(bench: Bench, plain: Bench) -> None:
    found = bench.engine.identity
    assert (found.model, found.engine, found.context, found.parallel) == ("odd", "upstream", 512, 8)
    assert found.adapters == ("a-lora",) and {"logprobs", "tools", "schema", "seed"} <= set(found.capabilities)
    assert "rest" not in found.capabilities


def test_thoughts_and_calls_are_told_apart(bench: Bench) -> None:
    assert bench("reason").reasoning == "hm, so"
    heard = bench("call", tools=(TOOL,))
    assert heard.calls == [
        CallPiece(0, "c1", "clock", '{"zo'), CallPiece(0, arguments='ne": 1}'), CallPiece(1, "c2", "b", "{}"),
    ]  # fmt: skip
    assert heard.ends() == {0: TOOLS} and heard.text() == ""
    assert {call.index for call in bench("call", tools=(TOOL,), parallel_tools=False).calls} == {0}


def test_tokens_are_counted_here_when_the_server_does_not(bench: Bench) -> None:
    assert bench("uncounted").last.usage == Usage(0, 8)


def test_stop_strings_hold_even_where_the_server_knows_none(bench: Bench) -> None:
    heard = bench("What is a slot?", stop=(" host that",))
    assert (heard.text(), heard.last.finish, heard.last.stop_match) == ("A port on a", STOP, " host that")
    assert bench("for ever", stop=(" one model. m",)).text() == "A port on a host that holds at most"
    assert bench("What is a slot?", stop=("model.!",)).text() == ANSWER  # a beginning that was held back


def test_a_prompt_is_completed_and_repeated(bench: Bench, server: odd_server.Server) -> None:
    heard = bench("", messages=None, prompt="What is a slot?", echo=True)
    assert heard.text() == "What is a slot?" + ANSWER and "echo" not in sent(server)
    assert server.seen[-1]["path"] == "/v1/completions"
    bench("", messages=None, prompt=(5, 6))
    assert sent(server)["prompt"] == [5, 6]


def test_several_answers_come_from_one_request_or_from_several(
    bench: Bench, plain: Bench, server: odd_server.Server
) -> None:
    before = len(server.seen)
    heard = plain("What is a slot?", n=3, sampling=Sampling(temperature=1.0, seed=2**40 + 5))
    assert [heard.text(i) for i in range(3)] == [ANSWER] * 3 and heard.last.usage == Usage(7, 24, 3)
    assert sorted(one["body"]["seed"] for one in server.seen[before:]) == [5, 6, 7]
    assert [chunk.usage for chunk in heard.chunks if chunk.finish][:2] == [None, None]
    bench.begin("What is a slot?", n=2)
    while not (event := bench.queue.get(timeout=30)).id or not getattr(event, "error", None):
        pass
    assert sent(server)["n"] == 2  # this server makes one only, and its answer is not taken for two
    assert event.error["code"] == "upstream_cut"


# ── what is sent ────────────────────────────────────────────────────────────────────────────────────────────────────

ALL = Sampling(0.5, 0.9, 7, 0.1, 1.2, 0.3, 0.4, 2**63 + 1, ((5, 1.5),))


def test_every_field_is_carried(bench: Bench, server: odd_server.Server) -> None:
    bench("x", sampling=ALL, max_tokens=9, stop=("!",), stop_ids=(3,), ignore_eos=True, logprobs=2, adapter="a-lora")
    body = sent(server)
    assert body == {
        "model": "a-lora", "stream": True, "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "x"}], "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1,
        "repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.4, "seed": 1,
        "logit_bias": {"5": 1.5}, "max_tokens": 9, "stop": ["!"], "stop_token_ids": [3], "ignore_eos": True,
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip


def test_defaults_of_the_server_are_overruled(bench: Bench, server: odd_server.Server) -> None:
    bench("x", sampling=Sampling())
    body = sent(server)
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (1.0, 1.0, 0, 0.0)
    assert body["repetition_penalty"] == 1.0 and "seed" not in body and "max_tokens" not in body


def test_tools_formats_and_thinking_are_carried(bench: Bench, server: odd_server.Server) -> None:
    bench("x", tools=(TOOL,), tool_choice="required", parallel_tools=False, thinking=False, effort="low")
    body = sent(server)
    assert body["tools"] == [{"type": "function", "function": TOOL}] and body["tool_choice"] == "required"
    assert body["parallel_tool_calls"] is False and body["reasoning_effort"] == "low"
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    bench("x", tools=(TOOL,), tool_choice="none")
    assert "tools" not in sent(server)
    bench("x", format=Format(JSON_SCHEMA, '{"type": "object"}'))
    assert sent(server)["response_format"]["json_schema"]["schema"] == {"type": "object"}
    bench("x", format=Format(JSON_OBJECT))
    assert sent(server)["response_format"] == {"type": "json_object"}
    bench("x", format=Format(REGEX, "a+"))
    assert sent(server)["structured_outputs"] == {"regex": "a+"}
    bench("x", continue_last=True)
    assert sent(server)["continue_final_message"] is True and sent(server)["add_generation_prompt"] is False


def test_calls_and_images_go_in_the_shape_of_clients(bench: Bench, server: odd_server.Server) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": {"a": 1}}}
    image = [{"type": "text", "text": "see"}, {"type": "image"}]
    messages = (
        {"role": "user", "content": image}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "user", "content": image},
    )  # fmt: skip
    bench("", messages=messages, media=(Media("image", b"\x89PNG1"), Media("image", b"\xff\xd82")))
    first, second, third = sent(server)["messages"]
    assert second["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert first["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORzE="}}
    assert third["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")


UNSAID: list[tuple[dict[str, Any], str]] = [
    ({"sampling": replace(GREEDY, top_k=3)}, "top_k"),
    ({"sampling": replace(GREEDY, min_p=0.1)}, "min_p"),
    ({"sampling": replace(GREEDY, repetition_penalty=1.1)}, "repetition_penalty"),
    ({"stop_ids": (3,)}, "stop_token_ids"),
    ({"ignore_eos": True}, "ignore_eos"),
    ({"format": Format(REGEX, "a")}, "regex"),
    ({"thinking": True}, "thinking"),
    ({"continue_last": True}, "continue_final_message"),
    ({"messages": None, "prompt": (1, 2)}, "prompt"),
    ({"messages": None, "prompt": "x", "suffix": "y"}, "suffix"),
    ({"messages": None, "prompt": "x", "echo": True, "logprobs": 0}, "echo"),
    ({"messages": None, "prompt": "x", "format": Format(JSON_OBJECT)}, "response_format"),
    ({"messages": None, "prompt": ""}, "prompt"),
    ({"max_tokens": 4096}, "max_tokens"),
    ({"adapter": "another"}, "adapter"),
    ({"messages": ({"role": "user", "content": "x" * 200_000},)}, "messages"),
    ({"media": (Media("image", b"\x89PNG"),)}, "messages"),
]


@pytest.mark.parametrize(("fields", "param"), UNSAID, ids=[param for _, param in UNSAID])
def test_a28_what_the_server_has_no_word_for_is_refused_by_name(
    plain: Bench, server: odd_server.Server, fields: dict[str, Any], param: str
) -> None:
    before = len(server.seen)
    with pytest.raises(RequestError) as caught:
        plain.begin("x", **fields)
    assert (caught.value.status, caught.value.param) == (400, param) and len(server.seen) == before


def test_an_entry_says_more_and_less_than_its_kind(server: odd_server.Server) -> None:
    fields = {"min_p": True, "regex": "guided_regex", "seed": False}
    bench = Bench(Server(url=server.url, ready="/health", fields=fields))
    try:
        bench("x", sampling=replace(GREEDY, min_p=0.2), format=Format(REGEX, "a"))
        assert sent(server)["min_p"] == 0.2 and sent(server)["guided_regex"] == "a"
        with pytest.raises(RequestError, match="seed"):
            bench("x", sampling=Sampling(seed=3))
    finally:
        bench.close()


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tasks_that_the_server_answers(bench: Bench, server: odd_server.Server) -> None:
    assert bench.task("tokenize", text="hello", special=False, bos=True) == {"ids": [1, 2, 3]}
    assert sent(server)["add_special_tokens"] is True
    assert bench.task("embed", inputs=["a", "b"]) == {"vectors": [[0.0, 1.0], [1.0, 1.0]], "tokens": 4}
    assert bench.task("rerank", query="q", documents=["a", "b"]) == {"scores": [0.1, 0.9], "tokens": 6}
    with pytest.raises(RequestError, match="cannot decide"):
        bench.task("decide", state={})
    with pytest.raises(RequestError, match="another shape"):
        bench.task("rerank", query="q", documents=["a", "b", "c"])


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────

FAULTS = [
    ("500", 502, "upstream_failed"), ("401", 502, "upstream_key"), ("503", 503, "unavailable"),
    ("400", 400, "upstream_refused"), ("too long", 400, "context_length_exceeded"),
    ("llama too long", 400, "context_length_exceeded"), ("html error", 502, "upstream_failed"),
    ("html", 502, "upstream_garbage"), ("not json", 502, "upstream_garbage"), ("no object", 502, "upstream_garbage"),
    ("no choices", 502, "upstream_garbage"), ("empty choices", 502, "upstream_cut"), ("nothing", 502, "upstream_cut"),
    ("hang up", 502, "upstream_cut"), ("truncated", 502, "upstream_cut"), ("hang", 504, "upstream_stalled"),
    ("slow headers", 504, "upstream_stalled"), ("stall", 504, "upstream_stalled"),
    ("page in a stream", 502, "upstream_garbage"), ("broken event", 502, "upstream_garbage"),
    ("event of a list", 502, "upstream_garbage"), ("another shape", 502, "upstream_garbage"),
    ("calls of another shape", 502, "upstream_garbage"), ("choice of nobody", 502, "upstream_garbage"),
    ("long event", 502, "upstream_garbage"), ("error in a stream", 502, "upstream_failed"),
    ("redirect", 502, "upstream_failed"),
]  # fmt: skip


@pytest.mark.parametrize(("question", "status", "code"), FAULTS, ids=[fault for fault, _, _ in FAULTS])
def test_f03_a_server_that_fails_hangs_or_talks_garbage_is_a_typed_error(
    bench: Bench, question: str, status: int, code: str
) -> None:
    error = bench(question).error
    assert isinstance(error, RequestError) and (error.status, error.code) == (status, code)
    assert len(error.message) < 700 and error.message.isprintable()
    assert bench("What is a slot?").text() == ANSWER  # the next one is served


def test_a_busy_server_says_when_to_come_again(bench: Bench) -> None:
    error = bench("429").error
    assert isinstance(error, RequestError) and (error.status, error.details["retry_after"]) == (429, 7.0)


def test_a_refusal_keeps_the_field_at_fault_and_both_numbers(bench: Bench) -> None:
    assert getattr(bench("400").error, "param", None) == "top_p"
    error = bench("llama too long").error
    assert error and error.details == {"max_context": 512, "input_length": 600}


def test_a_client_that_goes_away_ends_the_request_at_the_server(bench: Bench, server: odd_server.Server) -> None:
    before = server.gone
    id = bench.begin("for ever")
    bench.queue.get(timeout=30)
    bench.queue.get(timeout=30)
    bench.engine.cancel(id)
    assert bench.heard(id).last.finish == CANCELLED
    eventually(lambda: server.gone > before)  # its next write failed


def test_the_time_cap_ends_an_answer_with_what_there_is(bench: Bench) -> None:
    heard = bench("for ever", time_cap=1.0)
    assert heard.last.finish == TIME and heard.text().startswith(ANSWER)


def test_f03_health_of_a_server_that_is_silent_counts_as_life(
    server: odd_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long prompt is no wedge: `steps` goes on while /health answers, and stands still where it does not."""
    monkeypatch.setattr(upstream, "LOOK", 0.2)
    bench = Bench(Server(kind="vllm", url=server.url, stall=30.0))
    try:
        id = bench.begin("hang")
        steps = bench.engine.steps
        eventually(lambda: bench.engine.steps > steps + 1)
        server.ready_at = time.monotonic() + 60  # /health answers 503 from now on
        time.sleep(1.0)
        steps = bench.engine.steps
        time.sleep(1.0)
        assert bench.engine.steps == steps
        bench.engine.cancel(id)
    finally:
        server.ready_at = 0.0
        bench.close()


# ── at the start ────────────────────────────────────────────────────────────────────────────────────────────────────


def refused(server: Server, **fields: Any) -> LlmctlError:
    with pytest.raises(LlmctlError) as caught:
        Bench(server, **fields)
    return caught.value


def test_a_server_with_another_model_is_named(server: odd_server.Server) -> None:
    error = refused(Server(url=server.url, ready="/health"), model="wanted")
    assert isinstance(error, LoadFailed) and "asked for wanted" in error.message and "serves odd" in error.message


def test_f12_nothing_that_listens_or_something_else_that_does(server: odd_server.Server) -> None:
    error = refused(Server(url=f"http://127.0.0.1:{free_port()}"), load_timeout=0.5)
    assert isinstance(error, LoadFailed) and "nothing listens there" in error.message
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mute = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "does not answer" in refused(Server(url=mute), load_timeout=0.5).message
    assert "/nowhere answers 404" in refused(Server(url=server.url, ready="/nowhere"), load_timeout=0.5).message


def test_s09_the_key_comes_from_the_environment(server: odd_server.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Server(url=server.url, ready="/health", key_env="ODD_KEY")
    assert isinstance(error := refused(entry), Unsupported) and "ODD_KEY" in error.message and error.hint
    monkeypatch.setenv("ODD_KEY", "very-secret")
    bench = Bench(entry)
    try:
        assert bench("What is a slot?").text() == ANSWER and server.seen[-1]["key"] == "Bearer very-secret"
        assert "very-secret" not in repr(bench.spec)
    finally:
        bench.close()


def test_s12_proxies_of_the_environment_are_not_used(
    server: odd_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    bench = Bench(Server(url=server.url, ready="/health"))
    try:
        assert bench("What is a slot?").text() == ANSWER
    finally:
        bench.close()
