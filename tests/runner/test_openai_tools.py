"""OpenAI's tools, formats and thinking: what reaches the engine, and calls and reasoning on their way back."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmctl.domain import (
    GRAMMAR,
    JSON_OBJECT,
    JSON_SCHEMA,
    REGEX,
    TOOLS,
    CallPiece,
    Chunk,
    Format,
    GenerateRequest,
    TokenLogprob,
    Usage,
)
from llmctl.errors import RequestError
from llmctl.runner.media.source import BASE64, URL
from llmctl.runner.protocols import openai_answers
from llmctl.runner.protocols.asked import Asked
from llmctl.runner.protocols.openai_answers import ChatAnswer
from llmctl.runner.protocols.openai_completions import read_completion
from llmctl.runner.protocols.openai_fields import read_chat
from tests.clients import sse
from tests.runner.chunks import batches
from tests.runner.fake_slot import GOOD

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "how it is", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now"}}


def request(**fields: Any) -> GenerateRequest:
    return read_chat({**GOOD, **fields}, 1.0).request


# ── what reaches the engine ─────────────────────────────────────────────────────────────────────────────────────────


def test_tools_as_the_engine_gets_them() -> None:
    found = request(tools=[WEATHER, NOW], tool_choice="auto", parallel_tool_calls=False)
    assert found.tools == (
        {"name": "weather", "description": "how it is", "parameters": SCHEMA},
        {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
    )
    assert (found.tool_choice, found.parallel_tools) == ("auto", False)
    assert request(tools=[]).tools == () and request().parallel_tools is True


@pytest.mark.parametrize(
    ("choice", "names", "word"),
    [
        ("none", ["weather", "now"], "none"),
        ("required", ["weather", "now"], "required"),
        ({"type": "function", "function": {"name": "now"}}, ["now"], "required"),
        ({"type": "function", "name": "weather"}, ["weather"], "required"),
    ],
)
def test_a_named_tool_is_required_and_alone(choice: Any, names: list[str], word: str) -> None:
    found = request(tools=[WEATHER, NOW], tool_choice=choice)
    assert ([tool["name"] for tool in found.tools], found.tool_choice) == (names, word)


def test_calls_and_their_answers_in_a_history() -> None:
    call = {
        "id": "1",
        "type": "function",
        "index": 0,
        "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
    }
    bare = {"id": "2", "type": "function", "function": {"name": "now", "arguments": ""}}
    history = [
        *GOOD["messages"],
        {"role": "assistant", "content": None, "reasoning_content": "Paris?", "tool_calls": [call, bare]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "tool", "tool_call_id": "2", "content": "noon"},
    ]
    _, said, first, second = request(messages=history).messages or ()
    assert said == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "Paris?",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}},
            {"id": "2", "type": "function", "function": {"name": "now", "arguments": {}}},
        ],
    }
    assert first == {"role": "tool", "tool_call_id": "1", "content": "sunny"} and second["content"] == "noon"


FORMATS: list[tuple[dict[str, Any], Format | None]] = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, Format(JSON_OBJECT)),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, Format(JSON_SCHEMA, json.dumps(SCHEMA))),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
        Format(JSON_SCHEMA, json.dumps(SCHEMA)),
    ),
    ({"guided_json": SCHEMA}, Format(JSON_SCHEMA, json.dumps(SCHEMA))),
    ({"guided_json": '{"type": "string"}'}, Format(JSON_SCHEMA, '{"type": "string"}')),
    ({"guided_regex": "[0-9]+"}, Format(REGEX, "[0-9]+")),
    ({"guided_choice": ["a.b", "c"]}, Format(REGEX, r"a\.b|c")),
    ({"guided_grammar": 'start: "a"'}, Format(GRAMMAR, 'start: "a"')),
    ({"structured_outputs": {"regex": "a|b"}}, Format(REGEX, "a|b")),
    ({"structured_outputs": {"json_object": True}}, Format(JSON_OBJECT)),
    ({"structured_outputs": {"grammar": 'start: "a"', "json_object": False}}, Format(GRAMMAR, 'start: "a"')),
    ({"structured_outputs": {}}, None),
    ({"structured_outputs": {"choice": ["x"]}, "response_format": {"type": "text"}}, Format(REGEX, "x")),
]


@pytest.mark.parametrize(("fields", "expected"), FORMATS)
def test_formats(fields: dict[str, Any], expected: Format | None) -> None:
    assert request(**fields).format == expected
    assert read_completion({"prompt": "x", **fields}, 1.0).request.format == expected


@pytest.mark.parametrize(
    ("fields", "thinking", "effort"),
    [
        ({}, None, None),
        ({"reasoning_effort": "none"}, False, None),
        ({"reasoning_effort": "minimal"}, None, "low"),
        ({"reasoning_effort": "low"}, True, "low"),
        ({"reasoning_effort": "high"}, True, "high"),
        ({"enable_thinking": False}, False, None),
        ({"enable_thinking": False, "reasoning_effort": "high"}, False, "high"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True, None),
        ({"chat_template_kwargs": {"thinking": False}}, False, None),
        ({"chat_template_kwargs": {"reasoning_effort": "medium"}, "reasoning_effort": "low"}, True, "medium"),
    ],
)
def test_how_much_it_thinks(fields: dict[str, Any], thinking: bool | None, effort: str | None) -> None:
    found = request(**fields)
    assert (found.thinking, found.effort) == (thinking, effort)


def test_an_answer_that_goes_on() -> None:
    history = [*GOOD["messages"], {"role": "assistant", "content": "Once"}]
    assert request(messages=history, continue_final_message=True).continue_last is True
    assert request(messages=history).continue_last is False


def test_images_are_sources_in_order() -> None:
    data = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "low"}}
    address = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    text = {"type": "text", "text": "and"}
    asked = read_chat({"messages": [{"role": "user", "content": [data, text, address]}]}, 1.0)
    assert asked.request.messages == (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]},
    )
    assert [(one.at, one.how, one.value) for one in asked.sources] == [
        ("messages[0].content[0].image_url.url", BASE64, "QUJD"),
        ("messages[0].content[2].image_url.url", URL, "https://example.com/a.png"),
    ]


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_who_has_no_images(role: str) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    with pytest.raises(RequestError, match="no images") as caught:
        read_chat({"messages": [{"role": role, "content": [part]}]}, 1.0)
    assert caught.value.code == "unsupported_content"


# ── what comes back ─────────────────────────────────────────────────────────────────────────────────────────────────

CALLED = [
    Chunk("x", 0, reasoning="Paris, "),
    Chunk("x", 0, reasoning="then."),
    Chunk("x", 0, calls=(CallPiece(0, "1", "weather"),)),
    Chunk("x", 0, calls=(CallPiece(0, arguments='{"city":'),)),
    Chunk("x", 0, calls=(CallPiece(0, arguments='"Paris"}'), CallPiece(1, "2", "now", "{}"))),
    Chunk("x", 0, finish=TOOLS, usage=Usage(3, 5)),
]
SHOWN_CALLS = [
    {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}},
    {"id": "2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
]


def answer(stream: bool = False, n: int = 1, **fields: Any) -> ChatAnswer:
    return ChatAnswer(Asked(GenerateRequest("x", n=n, **fields), stream=stream), "alpha", 3)


def test_calls_and_reasoning_of_a_whole_answer() -> None:
    found = answer()
    found.add(CALLED)
    (choice,) = found.whole(Usage(3, 5))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant", "content": None, "refusal": None, "reasoning_content": "Paris, then.",
        "tool_calls": SHOWN_CALLS,
    }  # fmt: skip


def test_a_call_is_streamed_as_its_name_and_then_its_arguments() -> None:
    found = answer(stream=True)
    events = sse("".join(found.events([chunk]).decode() for chunk in CALLED))
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[:3] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Paris, "},
        {"reasoning_content": "then."},
    ]
    assert [delta["tool_calls"][0] for delta in deltas[3:-1]] == [
        {"index": 0, "id": "1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Paris"}'}},
        {"index": 1, "id": "2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]
    assert deltas[-1] == {} and events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_logprobs_of_what_is_no_text_are_not_lost() -> None:
    one = TokenLogprob("P", 1, -0.5)
    found = answer(stream=True, logprobs=0)
    events = sse(found.events([Chunk("x", 0, reasoning="P", logprobs=(one,))]).decode())
    shown = [token for event in events for token in (event["choices"][0]["logprobs"] or {}).get("content", [])]
    assert [token["token"] for token in shown] == ["P"]


def put_together(events: list[Any], sequences: int) -> list[dict[str, Any]]:
    """The messages that a client makes of a stream's deltas."""
    found: list[dict[str, Any]] = [{"content": "", "reasoning_content": "", "tool_calls": []} for _ in range(sequences)]
    for choice in (event["choices"][0] for event in events):
        message, delta = found[choice["index"]], choice["delta"]
        for key in ("content", "reasoning_content"):
            message[key] += delta.get(key) or ""
        for piece in delta.get("tool_calls", []):
            if "id" in piece:
                assert piece["index"] == len(message["tool_calls"])
                message["tool_calls"].append({"id": piece["id"], "type": piece["type"], "function": piece["function"]})
            else:
                message["tool_calls"][piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches(sequences=2), st.sampled_from([2, 64]))
def test_the_pieces_of_a_stream_are_the_whole(given: list[list[Chunk]], merge: int) -> None:
    streamed, whole = answer(stream=True, n=2), answer(n=2)
    with mock.patch.object(openai_answers, "MERGE", merge):
        events = sse("".join(streamed.events(batch).decode() for batch in given))
    for batch in given:
        whole.add(batch)
    choices = whole.whole(Usage())["choices"]
    expected = [
        {
            key: choice["message"].get(key) or empty
            for key, empty in (("content", ""), ("reasoning_content", ""), ("tool_calls", []))
        }
        for choice in choices
    ]
    assert put_together(events, 2) == expected
    ends = {c["index"]: c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]}
    assert ends == {choice["index"]: choice["finish_reason"] for choice in choices}


def test_a_slow_reader_s_batch_loses_neither_calls_nor_reasoning() -> None:
    many = [Chunk("x", 0, reasoning="a"), Chunk("x", 0, calls=(CallPiece(0, "1", "f"),))]
    many += [Chunk("x", 0, calls=(CallPiece(0, arguments="b"),)) for _ in range(openai_answers.MERGE)]
    events = sse(answer(stream=True).events(many).decode())
    (message,) = put_together(events, 1)
    assert message["reasoning_content"] == "a"
    assert message["tool_calls"][0]["function"]["arguments"] == "b" * openai_answers.MERGE and len(events) == 3
