"""The Ollama protocol: fields, messages, answers, lines, models, errors; over a slot without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import pytest

from llmctl.domain import (
    EMBED,
    IMAGE,
    JSON_OBJECT,
    JSON_SCHEMA,
    LENGTH,
    STOP,
    TEXT,
    TIME,
    TOKENIZE,
    TOOLS,
    CallPiece,
    Chunk,
    Format,
    GenerateRequest,
    Identity,
    Sampling,
    TokenLogprob,
    Usage,
)
from llmctl.errors import RequestError
from llmctl.runner.media.source import BASE64, Source
from llmctl.runner.protocols.ollama_answers import ChatAnswer, GenerateAnswer
from llmctl.runner.protocols.ollama_fields import read_chat, read_generate
from tests.clients import request
from tests.runner.fake_slot import FakeService, FakeSlot, Response, post, raw, serve

USER = {"role": "user", "content": "hi"}
GOOD: dict[str, Any] = {"messages": [USER]}
SAID = "Hello wörld \U0001f600!"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "t", "description": "d", "parameters": SCHEMA}}
PNG = "iVBORw0KGgo="
OLLAMA_S = Sampling(temperature=0.8, top_k=40, top_p=0.9)
ENGINE = Identity("alpha", "llamacpp", "qwen2", 4096, 1000, 4, memory_bytes=123, dtype="q4_k")


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        yield slot


def ask(slot: FakeSlot, path: str, method: str = "POST", **body: Any) -> Response:
    return raw(slot.port, post(path, json.dumps(body).encode()).replace(b"POST", method.encode(), 1))


def get(slot: FakeSlot, path: str) -> Response:
    return raw(slot.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def lines(response: Response) -> list[Any]:
    """The objects of a streamed answer."""
    assert response.status == 200 and response.headers["content-type"] == "application/x-ndjson"
    body, content = response.body, b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        content += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return [json.loads(line) for line in content.decode().splitlines()]


# ── what reaches the engine ─────────────────────────────────────────────────────────────────────────────────────────


def test_every_field_of_a_chat_reaches_the_request() -> None:
    options = {
        "temperature": 0.5, "top_k": 3, "top_p": 0.7, "min_p": 0.1, "seed": 7, "repeat_penalty": 1.1,
        "presence_penalty": 1, "frequency_penalty": -1, "num_predict": 9, "stop": ["a"], "num_ctx": 2048, "mirostat": 0,
        "num_gpu": 1, "typical_p": 1.0,
    }  # fmt: skip
    asked = read_chat(
        {
            **GOOD, "model": "alpha:latest", "stream": False, "options": options, "format": SCHEMA, "think": "high",
            "tools": [TOOL], "keep_alive": "5m", "logprobs": True, "top_logprobs": 2,
        },
        60.0,
    )  # fmt: skip
    assert asked.request == GenerateRequest(
        asked.request.id, (USER,), sampling=Sampling(0.5, 0.7, 3, 0.1, 1.1, 1.0, -1.0, 7), max_tokens=9, stop=("a",),
        logprobs=2, time_cap=60.0, format=Format(JSON_SCHEMA, json.dumps(SCHEMA)), thinking=True, effort="high",
        tools=({"name": "t", "description": "d", "parameters": SCHEMA},),
    )  # fmt: skip
    assert (asked.model, asked.stream) == ("alpha", False)


def test_defaults_are_ollama_s() -> None:
    asked = read_chat(GOOD, 60.0)
    assert asked.request == GenerateRequest(asked.request.id, (USER,), sampling=OLLAMA_S, time_cap=60.0)
    assert (asked.model, asked.stream) == (None, True)
    given = read_chat({**GOOD, "options": {"seed": -1, "num_predict": -2}, "think": False, "format": ""}, 1.0).request
    assert (given.sampling.seed, given.max_tokens, given.thinking, given.format) == (None, None, False, None)
    assert read_chat({**GOOD, "format": "json", "options": {"num_predict": -1}}, 1.0).request.format == Format(
        JSON_OBJECT
    )


def test_more_tokens_than_the_context_has_are_as_many_as_it_has() -> None:
    body = {**GOOD, "options": {"num_predict": 5000}}
    assert read_chat(body, 1.0, ENGINE).request.max_tokens is None
    assert read_chat(body, 1.0).request.max_tokens == 5000


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, {"messages": (USER,)}),
        ({"system": "be"}, {"messages": ({"role": "system", "content": "be"}, USER)}),
        ({"raw": True, "system": "be"}, {"prompt": "hi"}),
        ({"suffix": "end"}, {"prompt": "hi", "suffix": "end"}),
        (
            {"images": [PNG]},
            {"messages": ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]},)},
        ),
    ],
)
def test_a_prompt_is_a_chat_unless_it_is_raw(body: Any, wanted: Any) -> None:
    asked = read_generate({"prompt": "hi", **body}, 1.0)
    assert asked.request == GenerateRequest(asked.request.id, sampling=OLLAMA_S, time_cap=1.0, **wanted)
    assert asked.sources == ((Source("images[0]", IMAGE, BASE64, PNG),) if "images" in body else ())


def test_a_model_without_a_template_gets_the_prompt_as_it_is() -> None:
    base = replace(ENGINE, chat=False)
    assert read_generate({"prompt": "hi"}, 1.0, base).request.prompt == "hi"
    assert read_generate({"prompt": "hi", "system": "be"}, 1.0, base).request.prompt == "be\nhi"
    with pytest.raises(RequestError, match="only a chat takes images"):
        read_generate({"prompt": "hi", "images": [PNG]}, 1.0, base)


def test_calls_and_their_results_find_each_other() -> None:
    def call(name: str, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"a": 1}, **more}}

    body = [
        USER,
        {
            "role": "assistant",
            "thinking": "hm",
            "tool_calls": [call("t"), call("u", index=1), call("t") | {"id": "mine"}],
        },
        {"role": "tool", "tool_name": "u", "content": "of u"},
        {"role": "tool", "tool_call_id": "mine", "content": "of mine"},
        {"role": "tool", "content": "of t"},
        {"role": "tool", "content": "of none"},
        {"role": "assistant", "content": "so", "tool_calls": []},
    ]
    found = read_chat({"messages": body}, 1.0).request
    said = found.messages or ()
    first, second, third = said[1]["tool_calls"]
    assert said[1]["reasoning_content"] == "hm" and said[1]["content"] == ""
    assert first == {"id": first["id"], "type": "function", "function": {"name": "t", "arguments": {"a": 1}}}
    assert third["id"] == "mine" and len({first["id"], second["id"], "mine", ""}) == 4
    results = [message["tool_call_id"] for message in said if message["role"] == "tool"]
    assert results == [second["id"], "mine", first["id"], "call"]
    assert said[2] == {"role": "tool", "name": "u", "content": "of u", "tool_call_id": second["id"]}
    assert said[-1] == {"role": "assistant", "content": "so"} and found.continue_last


def test_only_words_of_the_assistant_s_go_on() -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "t", "arguments": {}}}]}
    for last, goes_on in ((USER, False), ({"role": "assistant", "content": "It is"}, True), (called, False)):
        assert read_chat({"messages": [USER, last]}, 1.0).request.continue_last is goes_on


def test_images_of_messages_come_before_their_text() -> None:
    asked = read_chat({"messages": [{**USER, "images": [PNG, f"data:image/png;base64,{PNG}"]}]}, 1.0)
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "hi"}]
    assert asked.request.messages == ({"role": "user", "content": parts},)
    assert [(one.at, one.value) for one in asked.sources] == [
        ("messages[0].images[0]", PNG), ("messages[0].images[1]", PNG),
    ]  # fmt: skip


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"messages": "hi"}, "messages"), ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"), ({"messages": [{**USER, "x": 1}]}, "messages[0].x"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"messages": [{**USER, "images": PNG}]}, "messages[0].images"),
        ({"messages": [{**USER, "images": [5]}]}, "messages[0].images[0]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": "{"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"), ({"tools": [TOOL] * 10_000}, "tools"),
        ({"options": {"temperature": 9}}, "options.temperature"), ({"options": {"temp": 1}}, "options.temp"),
        ({"options": []}, "options"), ({"options": {"num_predict": 0}}, "options.num_predict"),
        ({"options": {"num_predict": -3}}, "options.num_predict"), ({"options": {"seed": 2**70}}, "options.seed"),
        ({"options": {"stop": [""]}}, "options.stop"), ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"), ({"options": {"num_ctx": 5000}}, "options.num_ctx"),
        ({"options": {"repeat_penalty": 0}}, "options.repeat_penalty"), ({"format": "yaml"}, "format"),
        ({"format": [1]}, "format"), ({"think": "immense"}, "think"), ({"think": 1}, "think"),
        ({"template": "{{ .Prompt }}"}, "template"), ({"top_logprobs": 3}, "top_logprobs"), ({"stream": 1}, "stream"),
        ({"raw": True}, "raw"), ({"modle": "x"}, "modle"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named_and_never_repeated(fields: Any, at: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_chat({**GOOD, **fields}, 1.0, ENGINE)
    assert caught.value.status == 400 and caught.value.param == at
    assert "immense" not in caught.value.message and "{{" not in caught.value.message


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"raw": True, "images": [PNG]}, "images"), ({"context": [1, 2]}, "context"), ({"prompt": 5}, "prompt"),
        ({"prompt": "", "images": [PNG]}, "prompt"), ({"system": ["x"]}, "system"), ({"messages": []}, "messages"),
    ],
)  # fmt: skip
def test_a_bad_field_of_a_prompt_is_named(fields: Any, at: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_generate({"prompt": "hi", **fields}, 1.0)
    assert caught.value.status == 400 and caught.value.param == at


def test_a_refusal_has_ollama_s_shape(slot: FakeSlot) -> None:
    for stream in (False, True):
        refused = ask(slot, "/api/chat", **GOOD, options={"temperature": 9}, stream=stream)
        assert refused.status == 400
        assert refused.json() == {"error": "options.temperature: must be at least 0 and at most 2"}
    missing = ask(slot, "/api/chat", **GOOD, model="org/other")
    assert missing.status == 404 and missing.json() == {"error": "no such model"}
    assert ask(slot, "/api/chat", **GOOD).status == 200


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PIECES = (
    Chunk("x", reasoning="hm", tokens=1), Chunk("x", text="Well", tokens=1), Chunk("x", text=", then", tokens=1),
    Chunk("x", calls=(CallPiece(0, "call_1", "t", '{"a"'), CallPiece(0, arguments=": 1}"))),
    Chunk("x", calls=(CallPiece(1, "call_2", "u"),)),
    Chunk("x", finish=TOOLS),
)  # fmt: skip
CALLS = [
    {"id": "call_1", "function": {"index": 0, "name": "t", "arguments": {"a": 1}}},
    {"id": "call_2", "function": {"index": 1, "name": "u", "arguments": {}}},
]
USAGE = Usage(5, 9, 2)


def chat_answer(*chunks: Chunk, kind: Any = ChatAnswer) -> tuple[Any, list[Any]]:
    """What chunks become: the whole object, and the objects of its lines."""
    asked = read_chat(GOOD, 1.0)
    whole, stream = kind(asked, "alpha", 5), kind(asked, "alpha", 5)
    whole.add(chunks)
    data = b"".join(stream.events([chunk]) for chunk in chunks) + stream.end(USAGE)
    return whole.whole(USAGE), [json.loads(line) for line in data.splitlines()]


def test_a_whole_answer_and_its_lines_say_the_same() -> None:
    whole, found = chat_answer(*PIECES)
    message = {"role": "assistant", "content": "Well, then", "thinking": "hm", "tool_calls": CALLS}
    assert whole["message"] == message and (whole["done"], whole["done_reason"]) == (True, "stop")
    assert [line["done"] for line in found] == [False] * 4 + [True]
    assert [line["message"] for line in found] == [
        {"role": "assistant", "content": "", "thinking": "hm"}, {"role": "assistant", "content": "Well"},
        {"role": "assistant", "content": ", then"}, {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "assistant", "content": ""},
    ]  # fmt: skip
    assert set(found[-1]) == set(whole) and found[-1]["done_reason"] == "stop"
    assert (whole["prompt_eval_count"], whole["eval_count"]) == (5, 9)


def test_the_durations_add_up() -> None:
    whole, _ = chat_answer(*PIECES)
    parts = [whole[f"{name}_duration"] for name in ("load", "prompt_eval", "eval")]
    assert sum(parts) == whole["total_duration"] > 0 and all(part >= 0 for part in parts)


@pytest.mark.parametrize("arguments", ["{", "[1]", "nope", "[" * 100_000])
def test_a_call_that_is_no_object_is_text(arguments: str) -> None:
    whole, found = chat_answer(Chunk("x", calls=(CallPiece(0, "call_1", "t", arguments),), finish=LENGTH))
    assert whole["message"] == {"role": "assistant", "content": arguments} == found[0]["message"]
    assert whole["done_reason"] == "length" == found[-1]["done_reason"] and len(found) == 2


@pytest.mark.parametrize(("finish", "reason"), [(STOP, "stop"), (LENGTH, "length"), (TIME, "length"), (TOOLS, "stop")])
def test_done_reasons(finish: str, reason: str) -> None:
    assert chat_answer(Chunk("x", text="a", finish=finish))[0]["done_reason"] == reason


def test_a_prompt_s_answer_is_a_response() -> None:
    whole, found = chat_answer(*PIECES[:3], Chunk("x", finish=STOP), kind=GenerateAnswer)
    assert (whole["response"], whole["thinking"]) == ("Well, then", "hm") and "message" not in whole
    assert [line["response"] for line in found] == ["", "Well", ", then", ""]


def test_logprobs() -> None:
    one = TokenLogprob(" ü", 4, -0.5, ((" ü", 4, -0.5), ("x", 5, float("-inf"))))
    whole, found = chat_answer(Chunk("x", text=" ü", logprobs=(one,), finish=STOP))
    shown = {"token": " ü", "logprob": -0.5, "bytes": [32, 195, 188]}
    other = {"token": "x", "logprob": -9999.0, "bytes": [120]}
    assert whole["logprobs"] == [{**shown, "top_logprobs": [shown, other]}] == found[0]["logprobs"]


# ── over HTTP ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("path", "body"), [("/api/chat", GOOD), ("/api/generate", {"prompt": "hi"})])
def test_streams_unless_told_otherwise(slot: FakeSlot, path: str, body: Any) -> None:
    def text(found: Any) -> str:
        return str(found["message"]["content"] if "message" in found else found["response"])

    whole = ask(slot, path, **body, stream=False).json()
    assert text(whole) == SAID and whole["model"] == "alpha" and whole["eval_count"] == 4
    found = lines(ask(slot, path, **body))
    assert "".join(map(text, found)) == SAID and [line["done"] for line in found] == [False] * 4 + [True]


def test_an_error_amid_a_stream_is_its_last_line() -> None:
    with serve(FakeService(fail_at=2)) as slot:
        found = lines(ask(slot, "/api/chat", **GOOD))
        assert found[-1] == {"error": "engine died"} and len(found) == 3


def test_an_error_before_the_first_chunk_has_its_own_status() -> None:
    busy = RequestError("busy", status=503, code="unavailable", details={"retry_after": 3}, hint="llmctl status 8101")
    with serve(FakeService(refusal=busy)) as slot:
        refused = ask(slot, "/api/chat", **GOOD)
        assert refused.status == 503 and refused.headers["retry-after"] == "3"
        assert refused.json() == {"error": "busy; llmctl status 8101"}


def test_asked_for_nothing_it_loads(slot: FakeSlot) -> None:
    loaded = ask(slot, "/api/generate", model="alpha:latest").json()
    assert (loaded["response"], loaded["done"], loaded["done_reason"]) == ("", True, "load")
    assert ask(slot, "/api/chat", model="alpha", messages=[], keep_alive="5m").json()["message"]["content"] == ""
    assert [task.verb for task in slot.service.tasks] == [TOKENIZE, TOKENIZE] and not slot.service.seen
    assert ask(slot, "/api/generate", model="org/other").status == 404
    stopped = ask(slot, "/api/generate", model="alpha", keep_alive=0)
    assert stopped.status == 501 and "llmctl unload" in stopped.json()["error"] and len(slot.service.tasks) == 2


def test_embeddings_have_length_one(slot: FakeSlot) -> None:
    slot.service.values = {EMBED: {"vectors": [[3.0, 4.0, 12.0], [0.0, 0.0, 0.0]], "tokens": 7}}
    found = ask(slot, "/api/embed", model="alpha:latest", input=["a", "b"], truncate=True, dimensions=2).json()
    assert found["embeddings"] == [[0.6, 0.8], [0, 0]] and found["prompt_eval_count"] == 7
    assert slot.service.tasks[-1].arguments == {"inputs": ["a", "b"], "pooling": None}
    assert ask(slot, "/api/embeddings", prompt="a").json() == {"embedding": [3, 4, 12]}
    assert slot.service.tasks[-1].arguments["inputs"] == ["a"]
    for body in ({}, {"input": []}, {"input": [5]}, {"input": ["a"] * 3000}, {"input": "a", "dimensions": 4}):
        assert ask(slot, "/api/embed", **body).status == 400, body
    assert ask(slot, "/api/embed", input="a", model="org/other").status == 404


@pytest.mark.parametrize(
    ("path", "verb"),
    [
        ("/api/pull", "llmctl pull"), ("/api/push", "llmctl pull"), ("/api/create", "llmctl convert"),
        ("/api/copy", "alias"), ("/api/delete", "llmctl models rm"),
    ],
)  # fmt: skip
def test_what_is_the_operator_s_names_its_verb(slot: FakeSlot, path: str, verb: str) -> None:
    for method in ("POST", "DELETE"):
        refused = ask(slot, path, method, model="m")
        assert refused.status == 501 and verb in refused.json()["error"]


def test_models(slot: FakeSlot) -> None:
    listed = get(slot, "/api/tags").json()["models"]
    assert [model["name"] for model in listed] == ["alpha", "first"] == [model["model"] for model in listed]
    (running,) = get(slot, "/api/ps").json()["models"]
    assert (running["name"], running["context_length"], running["size"], running["size_vram"]) == (
        "alpha",
        1024,
        123,
        0,
    )
    shown = ask(slot, "/api/show", model="alpha:latest").json()
    assert shown["model_info"]["scripted.context_length"] == 1024 and shown["capabilities"] == ["completion"]
    assert ask(slot, "/api/show", name="org/other").status == 404 == ask(slot, "/api/show", model="x/y").status
    assert ask(slot, "/api/show", model=5).status == 400


def test_capabilities_are_in_ollama_s_words() -> None:
    able = replace(ENGINE, capabilities=("tools", "reasoning", "suffix", "seed"), inputs=(TEXT, IMAGE), device="cuda")
    embeds = replace(ENGINE, capabilities=(EMBED,), outputs=())
    for identity, words in [
        (able, {"completion", "tools", "thinking", "insert", "vision"}), (embeds, {"embedding"}),
        (None, {"completion"}),
    ]:  # fmt: skip
        service = FakeService()
        service.identity = lambda found=identity: found  # type: ignore[method-assign, misc]
        with serve(service) as slot:
            shown = ask(slot, "/api/show", model="alpha").json()
            assert set(shown["capabilities"]) == words
            assert shown["details"]["format"] == ("gguf" if identity else "safetensors")
            running = get(slot, "/api/ps").json()["models"]
            assert [row["size_vram"] for row in running] == ([123] if identity is able else [0] if identity else [])


def test_clients_find_what_they_probe_for(slot: FakeSlot) -> None:
    assert get(slot, "/").body == b"Ollama is running"
    head = HTTPConnection("127.0.0.1", slot.port)
    assert request(head, "HEAD", "/", None, None)[0] == 200
    head.close()
    assert get(slot, "/api/version").json()["version"].count(".") == 2
    unknown = get(slot, "/nothing")
    assert unknown.status == 404 and unknown.json()["error"]["code"] == "not_found"
