"""The Anthropic protocol: fields, messages, answers, events, errors; over a slot without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmctl.domain import (
    CANCELLED,
    JSON_SCHEMA,
    LENGTH,
    STOP,
    TIME,
    TOKENIZE,
    TOOLS,
    CallPiece,
    Chunk,
    Format,
    GenerateRequest,
    Sampling,
    Usage,
)
from llmctl.errors import LlmctlError, RequestError
from llmctl.runner.media.source import BASE64, URL, Source
from llmctl.runner.protocols.anthropic_answers import MessageAnswer, error_object
from llmctl.runner.protocols.anthropic_fields import read_count, read_messages
from llmctl.runner.protocols.asked import Asked
from tests.runner.fake_slot import FakeService, FakeSlot, Response, post, raw, serve

MESSAGES = "/v1/messages"
GOOD: dict[str, Any] = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
TEXT = "Hello wörld \U0001f600!"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"name": "t", "description": "d", "input_schema": SCHEMA}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        yield slot


def ask(slot: FakeSlot, path: str = MESSAGES, **fields: Any) -> Response:
    return raw(slot.port, post(path, json.dumps({**GOOD, **fields}).encode(), "anthropic-version: 2023-06-01"))


def read(**fields: Any) -> Asked:
    return read_messages({**GOOD, **fields}, 60.0)


def said(*messages: Any, system: Any = None) -> tuple[Any, ...]:
    """The messages as the engine gets them."""
    body = {**GOOD, "messages": list(messages)} | ({"system": system} if system is not None else {})
    return read_messages(body, 1.0).request.messages or ()


def events(data: bytes) -> list[Any]:
    """The payloads of a stream, each checked to have its type as the event's name."""
    found = []
    for block in data.decode().strip().split("\n\n"):
        name, _, payload = block.partition("\n")
        found.append(json.loads(payload.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def dechunk(body: bytes) -> bytes:
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        content += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return content


# ── what reaches the engine ─────────────────────────────────────────────────────────────────────────────────────────


def test_every_field_reaches_the_request() -> None:
    asked = read(
        model="alpha", system=[{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}], temperature=0.5,
        top_p=0.9, top_k=40, stop_sequences=["a", "b"], stream=True, tools=[TOOL], metadata={"user_id": "u"},
        tool_choice={"type": "any", "disable_parallel_tool_use": True}, service_tier="auto",
        thinking={"type": "enabled", "budget_tokens": 1024}, output_config={"effort": "max"},
        output_format={"type": "json_schema", "schema": SCHEMA}, cache_control={"type": "ephemeral"},
    )  # fmt: skip
    assert asked.request == GenerateRequest(
        asked.request.id, ({"role": "system", "content": "be"}, {"role": "user", "content": "hi"}),
        sampling=Sampling(0.5, 0.9, 40), max_tokens=9, stop=("a", "b"), time_cap=60.0,
        tools=({"name": "t", "description": "d", "parameters": SCHEMA},), tool_choice="required", parallel_tools=False,
        thinking=True, effort="high", format=Format(JSON_SCHEMA, json.dumps(SCHEMA)),
    )  # fmt: skip
    assert (asked.model, asked.stream, asked.options) == ("alpha", True, 9)


def test_defaults_are_anthropic_s() -> None:
    asked = read()
    assert asked.request == GenerateRequest(
        asked.request.id, ({"role": "user", "content": "hi"},), max_tokens=9, time_cap=60.0
    )
    assert (asked.model, asked.stream, asked.sources) == (None, False, ())


def test_more_tokens_than_the_context_has_are_as_many_as_it_has() -> None:
    body = {**GOOD, "max_tokens": 32000}
    assert read_messages(body, 1.0, 4096).request.max_tokens is None
    assert read_messages(body, 1.0, 32000).request.max_tokens == 32000
    assert read_messages(body, 1.0).request.max_tokens == 32000


@pytest.mark.parametrize(
    ("choice", "names", "wanted"),
    [
        ({"type": "auto"}, ["t", "u"], "auto"), ({"type": "any"}, ["t", "u"], "required"),
        ({"type": "tool", "name": "u"}, ["u"], "required"), ({"type": "none"}, ["t", "u"], "none"),
    ],
)  # fmt: skip
def test_tool_choice(choice: Any, names: list[str], wanted: str) -> None:
    request = read(tools=[TOOL, {**TOOL, "name": "u", "type": "custom"}], tool_choice=choice).request
    assert [tool["name"] for tool in request.tools] == names and request.tool_choice == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"type": "enabled", "budget_tokens": 2000}, True), ({"type": "disabled"}, False), ({"type": "adaptive"}, None),
        ({"type": "between_tools"}, False),
    ],
)  # fmt: skip
def test_thinking(given: Any, wanted: bool | None) -> None:
    assert read(thinking=given).request.thinking is wanted


def test_a_schema_in_either_field() -> None:
    schema = {"type": "json_schema", "schema": SCHEMA}
    assert read(output_config={"format": schema}).request.format == read(output_format=schema).request.format


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_conversation_with_tools_becomes_the_common_shape() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    assert said(
        {"role": "user", "content": [{"type": "text", "text": "a", **cached}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "c", "citations": None}, {"type": "text", "text": "d"},
            {"type": "tool_use", "id": "1", "name": "t", "input": {"a": 1}, **cached},
            {"type": "tool_use", "id": "2", "name": "t", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "content": "r", **cached},
            {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "s"}], "is_error": True},
            {"type": "tool_result", "tool_use_id": "3"}, {"type": "text", "text": "e"},
        ]},
        system="be",
    ) == (
        {"role": "system", "content": "be"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "cd", "reasoning_content": "hm", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "t", "arguments": {"a": 1}}},
            {"id": "2", "type": "function", "function": {"name": "t", "arguments": {}}},
        ]},
        {"role": "tool", "tool_call_id": "1", "content": "r"},
        {"role": "tool", "tool_call_id": "2", "content": "Error:\ns"},
        {"role": "tool", "tool_call_id": "3", "content": ""},
        {"role": "user", "content": "e"},
    )  # fmt: skip


def test_messages_of_one_role_are_one() -> None:
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    assert said(user, user, assistant, assistant, {"role": "system", "content": "c"}, user) == (
        {"role": "user", "content": "a\na"}, {"role": "assistant", "content": "bb"}, {"role": "system", "content": "c"},
        {"role": "user", "content": "a"},
    )  # fmt: skip


def test_images_keep_their_order_among_texts_and_results() -> None:
    image = {"type": "image", "source": PNG}
    url = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    asked = read(
        messages=[
            {"role": "user", "content": [image, {"type": "text", "text": "x"}]},
            {"role": "user", "content": [url, {"type": "tool_result", "tool_use_id": "1", "content": [image]}]},
        ]
    )
    assert asked.request.messages == (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "image"}]},
        {"role": "user", "content": [{"type": "image"}]},
    )
    assert asked.sources == (
        Source("messages[0].content[0].source.data", "image", BASE64, PNG["data"]),
        Source("messages[1].content[1].content[0].source.data", "image", BASE64, PNG["data"]),
        Source("messages[1].content[0].source.url", "image", URL, "https://example.org/a.png"),
    )


def test_a_last_message_of_the_assistant_is_a_prefill() -> None:
    begun = read(messages=[*GOOD["messages"], {"role": "assistant", "content": "It is"}]).request
    assert begun.continue_last and begun.messages and begun.messages[-1]["content"] == "It is"
    empty = read(messages=[*GOOD["messages"], {"role": "assistant", "content": ""}]).request
    assert not empty.continue_last and empty.messages == tuple(GOOD["messages"])


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"max_tokens": None}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": "9"}, "max_tokens"),
        ({"messages": None}, "messages"), ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"), ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": [1]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "txt": 1}]}]},
            "messages[0].content[0].txt",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages[0].content[0].source.type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {**PNG, "media_type": "a/b"}}]}]},
            "messages[0].content[0].source.data",
        ),
        (
            {"messages": [{"role": "assistant", "content": [
                {"type": "tool_use", "id": "1", "name": "t", "input": "{"}]}]},
            "messages[0].content[0].input",
        ),
        (
            {"messages": [{"role": "assistant", "content": [
                {"type": "tool_use", "id": "1", "name": "t", "input": {}}]}]},
            "messages[0]",
        ),
        ({"system": 5}, "system"), ({"system": [{"type": "image", "source": PNG}]}, "system[0].type"),
        ({"temperature": 1.5}, "temperature"), ({"temperature": True}, "temperature"), ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"), ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": ["x"] * 100}, "stop_sequences"), ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"), ({"tools": [5]}, "tools[0]"), ({"tools": [TOOL] * 10_000}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools"), ({"tools": [{**TOOL, "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"name": "t"}]}, "tools[0].input_schema"),
        ({"tools": [{**TOOL, "input_schema": {"type": "array"}}]}, "tools[0].input_schema.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"), ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "much"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "thinking.budget_tokens"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        ({"output_config": {"effort": "immense"}}, "output_config.effort"),
        ({"output_config": {"x": 1}}, "output_config.x"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"), ({"temprature": 1}, "temprature"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named_and_never_repeated(fields: Any, at: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_messages({key: value for key, value in {**GOOD, **fields}.items() if value is not None}, 1.0)
    assert caught.value.status == 400 and caught.value.param == at
    assert "immense" not in caught.value.message and "web_search" not in caught.value.message


def test_a_refusal_has_anthropic_s_shape(slot: FakeSlot) -> None:
    for stream in (False, True):
        refused = ask(slot, temperature=9, stream=stream)
        message = "temperature: must be at least 0 and at most 1"
        error = {"type": "invalid_request_error", "message": message}
        assert refused.status == 400
        assert refused.json() == {"type": "error", "error": error, "request_id": None}
    assert ask(slot, model="org/other").json()["error"]["type"] == "not_found_error"
    assert ask(slot).status == 200


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"), (408, "timeout_error"), (413, "request_too_large"), (429, "rate_limit_error"),
        (500, "api_error"), (501, "api_error"), (503, "overloaded_error"), (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)  # fmt: skip
def test_error_types(status: int, kind: str) -> None:
    assert error_object(RequestError("why", status=status))["error"] == {"type": kind, "message": "why"}


def test_an_error_tells_what_to_do() -> None:
    assert error_object(LlmctlError("why", hint="do"))["error"] == {"type": "api_error", "message": "why; do"}


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


USAGE = Usage(5, 9, 2)


def answer(*chunks: Chunk, usage: Usage = USAGE, stream: bool = False) -> Any:
    """What chunks become: the whole message, or the payloads of its events."""
    one = MessageAnswer(read(stream=stream), "alpha", 5)
    if stream:
        return events(b"".join(one.events([chunk]) for chunk in chunks) + one.end(usage))
    one.add(chunks)
    return one.whole(usage)


SAID = (
    Chunk("x", reasoning="I th"), Chunk("x", reasoning="ink"), Chunk("x", text="Well"), Chunk("x", text=", then"),
    Chunk("x", calls=(CallPiece(0, "call_1", "t", '{"a"'), CallPiece(0, arguments=": 1}"))),
    Chunk("x", calls=(CallPiece(1, "call_2", "u"),), finish=TOOLS),
)  # fmt: skip
CONTENT = [
    {"type": "thinking", "thinking": "I think", "signature": ""},
    {"type": "text", "text": "Well, then"},
    {"type": "tool_use", "id": "call_1", "name": "t", "input": {"a": 1}},
    {"type": "tool_use", "id": "call_2", "name": "u", "input": {}},
]


def test_a_whole_answer_has_blocks_in_the_order_they_were_said() -> None:
    message = answer(*SAID)
    assert message["content"] == CONTENT and message["stop_reason"] == "tool_use"
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "alpha")
    assert message["usage"] == {
        "input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 9,
    }  # fmt: skip


def test_events_build_the_same_message() -> None:
    found = answer(*SAID, stream=True)
    kinds = [event["type"] for event in found]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    calls = [*block[:2], *block[1:], block[0], block[2]]
    assert kinds[:2] == ["message_start", "ping"] and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds[2:-2] == [*block[:2], *block[1:], *block[:2], *block[1:], *calls]
    assert built(found) == {**answer(*SAID), "id": found[0]["message"]["id"]}


def built(found: list[Any]) -> Any:
    """The message that a client makes of the events."""
    message, texts = found[0]["message"], dict[int, str]()
    for event in found[1:]:
        at = event.get("index")
        if event["type"] == "content_block_start":
            assert at == len(message["content"]) and event["content_block"]["type"]
            message["content"].append(event["content_block"])
        elif event["type"] == "content_block_delta":
            (field,) = set(event["delta"]) - {"type"}
            texts[at] = texts.get(at, "") + event["delta"][field]
        elif event["type"] == "message_delta":
            message |= event["delta"] | {"usage": event["usage"]}
    for at, block in enumerate(message["content"]):
        if block["type"] == "tool_use":
            block["input"] = json.loads(texts.get(at) or "{}")
        else:
            block[block["type"]] = texts.get(at, "")
    return message


@pytest.mark.parametrize("arguments", ["{", "[1]", "nope", "[" * 100_000])
def test_a_call_that_is_no_object_is_text(arguments: str) -> None:
    chunk = Chunk("x", calls=(CallPiece(0, "call_1", "t", arguments),), finish=LENGTH)
    assert answer(chunk)["content"] == [{"type": "text", "text": arguments}]
    assert answer(chunk, stream=True)[-1] == {"type": "message_stop"}


@pytest.mark.parametrize(
    ("finish", "match", "made", "reason"),
    [
        (STOP, None, 3, "end_turn"), (STOP, "END", 3, "stop_sequence"), (LENGTH, None, 9, "max_tokens"),
        (LENGTH, None, 8, "model_context_window_exceeded"), (TIME, None, 3, "max_tokens"), (TOOLS, None, 3, "tool_use"),
        (CANCELLED, None, 3, "end_turn"),
    ],
)  # fmt: skip
def test_stop_reasons(finish: str, match: str | None, made: int, reason: str) -> None:
    chunk = Chunk("x", text="a", finish=finish, stop_match=match)
    message = answer(chunk, usage=Usage(1, made))
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, match)
    delta = answer(chunk, usage=Usage(1, made), stream=True)[-2]["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": match}


def test_an_answer_without_a_word_has_no_block() -> None:
    assert answer(Chunk("x", finish=STOP))["content"] == []
    kinds = [event["type"] for event in answer(Chunk("x", finish=STOP), stream=True)]
    assert kinds == ["message_start", "ping", "message_delta", "message_stop"]


# ── over HTTP ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stream_is_the_whole_in_events(slot: FakeSlot) -> None:
    whole = ask(slot).json()
    assert whole["content"] == [{"type": "text", "text": TEXT}]
    response = ask(slot, stream=True)
    assert response.status == 200 and response.headers["content-type"].startswith("text/event-stream")
    found = built(events(dechunk(response.body)))
    assert {**found, "id": ""} == {**whole, "id": ""}


def test_an_error_amid_a_stream_is_an_event_that_ends_it() -> None:
    with serve(FakeService(fail_at=2)) as slot:
        found = events(dechunk(ask(slot, stream=True).body))
        assert found[-1] == {
            "type": "error", "error": {"type": "api_error", "message": "engine died"}, "request_id": None,
        }  # fmt: skip
        assert [event["type"] for event in found].count("content_block_delta") == 2


def test_an_error_before_the_first_chunk_has_its_own_status() -> None:
    busy = RequestError("busy", status=503, code="unavailable", details={"retry_after": 3})
    with serve(FakeService(refusal=busy)) as slot:
        refused = ask(slot, stream=True)
        assert refused.status == 503 and refused.headers["retry-after"] == "3"
        assert refused.json()["error"]["type"] == "overloaded_error"


def test_tokens_are_counted_as_the_engine_would_read_them(slot: FakeSlot) -> None:
    slot.service.values = {TOKENIZE: {"ids": [4, 5, 6]}}
    body = {"messages": GOOD["messages"], "system": "be", "tools": [TOOL], "thinking": {"type": "disabled"}}
    counted = raw(slot.port, post(f"{MESSAGES}/count_tokens", json.dumps(body).encode()))
    assert counted.status == 200 and counted.json() == {"input_tokens": 3}
    (task,) = slot.service.tasks
    assert task.arguments == {
        "messages": ({"role": "system", "content": "be"}, {"role": "user", "content": "hi"}),
        "tools": ({"name": "t", "description": "d", "parameters": SCHEMA},),
    }
    assert ask(slot, f"{MESSAGES}/count_tokens", model="org/other").status == 404


def test_what_cannot_be_counted_is_refused() -> None:
    image = [{"role": "user", "content": [{"type": "image", "source": PNG}]}]
    for body in ({"messages": image}, {}, {"messages": GOOD["messages"], "unheard": 1}):
        with pytest.raises(RequestError):
            read_count(body)
    assert read_count({**GOOD, "model": "m"})[0] == "m"
