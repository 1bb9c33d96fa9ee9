"""OpenAI's responses: items in, items out, typed events in order, and nothing stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from llmctl.domain import CANCELLED, JSON_SCHEMA, LENGTH, STOP, TOOLS, CallPiece, Chunk, Format, TokenLogprob, Usage
from llmctl.errors import RequestError
from llmctl.runner.protocols.openai_response_answer import ResponseAnswer
from llmctl.runner.protocols.openai_responses import read_response
from tests.runner.chunks import batches
from tests.runner.fake_slot import FakeService, FakeSlot, Response, dechunk, post, raw, serve

SCHEMA = {"type": "object"}
TOOL = {"type": "function", "name": "weather", "description": "d", "parameters": SCHEMA, "strict": True}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "1", "name": "weather", "arguments": '{"city": "Paris"}'}


def respond(slot: FakeSlot, **fields: Any) -> Response:
    return raw(slot.port, post("/v1/responses", json.dumps({"input": "hi", **fields}).encode()))


def typed_events(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream; each is named as its data says, and they are numbered."""
    found = []
    for block in data.decode().strip().split("\n\n"):
        name, body = block.split("\n")
        event = json.loads(body.removeprefix("data: "))
        assert name == f"event: {event['type']}" and event["sequence_number"] == len(found)
        found.append(event)
    return found


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve(FakeService(words=("Hello", " you"))) as slot:
        yield slot


# ── what reaches the engine ─────────────────────────────────────────────────────────────────────────────────────────


def test_every_field_reaches_the_request() -> None:
    asked = read_response(
        {
            "model": "alpha", "input": "hi", "instructions": "be kind", "max_output_tokens": 9, "temperature": 0.5,
            "top_p": 0.9, "tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"},
            "parallel_tool_calls": False, "reasoning": {"effort": "low", "summary": "auto"}, "stream": True,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}},
            "include": ["message.output_text.logprobs"], "top_logprobs": 2, "store": True, "metadata": {"a": "b"},
            "truncation": "disabled", "background": False, "stop": "x",
        },
        60.0,
    )  # fmt: skip
    request = asked.request
    assert request.messages == ({"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"})
    assert (request.max_tokens, request.sampling.temperature, request.sampling.top_p) == (9, 0.5, 0.9)
    assert request.tools == ({"name": "weather", "description": "d", "parameters": SCHEMA},)
    assert (request.tool_choice, request.parallel_tools) == ("required", False)
    assert (request.thinking, request.effort, request.stop) == (True, "low", ("x",))
    assert (request.format, request.logprobs, request.time_cap) == (Format(JSON_SCHEMA, json.dumps(SCHEMA)), 2, 60.0)
    assert (asked.model, asked.stream) == ("alpha", True) and request.id.startswith("resp")


def test_items_become_messages() -> None:
    items = [
        {"role": "developer", "content": "be kind"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "so", "annotations": [], "logprobs": []}],
        },
        CALL,
        {**CALL, "call_id": "2", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "dry"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "short"}]},
        {**CALL, "call_id": "3"},
        {"role": "assistant", "content": "both"},
        {"role": "user", "content": "thanks"},
    ]  # fmt: skip
    asked = read_response({"input": items}, 1.0)
    paris = {"name": "weather", "arguments": {"city": "Paris"}}
    assert asked.request.messages == (
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}]},
        {
            "role": "assistant", "content": "so", "reasoning_content": "hm",
            "tool_calls": [
                {"id": "1", "type": "function", "function": paris},
                {"id": "2", "type": "function", "function": {"name": "weather", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
        {"role": "tool", "content": "dry", "tool_call_id": "2"},
        {
            "role": "assistant", "content": "both", "reasoning_content": "short",
            "tool_calls": [{"id": "3", "type": "function", "function": paris}],
        },
        {"role": "user", "content": "thanks"},
    )  # fmt: skip
    assert [source.at for source in asked.sources] == ["input[1].content[1].image_url"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": 1}, "input"),
    ({"input": [1]}, "input[0]"),
    ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
    ({"input": [{"role": "user", "content": "x", "extra": 1}]}, "input[0].extra"),
    ({"input": [{**CALL, "arguments": "{"}]}, "input[0].arguments"),
    ({"input": [{**CALL, "call_id": None}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "1"}]}, "input[0].output"),
    ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
    ({"input": [{"type": "reasoning", "summary": [{"text": "x"}]}]}, "input[0].summary[0].type"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "x"}}, "prompt"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"store": 1}, "store"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools[0].function"),
    ({"tools": [TOOL, TOOL]}, "tools[1]"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"verbosity": "huge"}}, "text.verbosity"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"include": "x"}, "include"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_tokens": 1}, "max_tokens"),
    ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_a13_to_a34_of_responses_are_400_and_name_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_response({"input": "hi", **fields}, 1.0)
    assert caught.value.status == 400 and caught.value.param == param and param in caught.value.message


# ── what comes back ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_whole_response(slot: FakeSlot) -> None:
    answer = respond(slot, instructions="be kind", store=True, temperature=0.5, tools=[TOOL]).json()
    (item,) = answer["output"]
    assert item.pop("id").startswith("msg") and answer.pop("id").startswith("resp") and answer.pop("created_at") > 1e9
    part = {"type": "output_text", "text": "Hello you", "annotations": [], "logprobs": []}
    assert item == {"type": "message", "status": "incomplete", "role": "assistant", "content": [part]}
    assert answer["usage"] == {
        "input_tokens": 3, "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5,
    }  # fmt: skip
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (answer["store"], answer["previous_response_id"], answer["error"]) == (False, None, None)
    assert (answer["instructions"], answer["temperature"], answer["top_p"]) == ("be kind", 0.5, 1.0)
    assert (answer["model"], answer["object"], answer["tools"]) == ("alpha", "response", [TOOL])
    assert answer["text"] == {"format": {"type": "text"}}


SPOKEN = [
    Chunk("x", reasoning="hm", tokens=2),
    Chunk("x", text="so ", tokens=1),
    Chunk("x", text="be it", tokens=1),
    Chunk("x", tokens=1, calls=(CallPiece(0, "1", "weather"),)),
    Chunk("x", tokens=1, calls=(CallPiece(0, arguments="{}"), CallPiece(1, "2", "now", "{}"))),
    Chunk("x", finish=TOOLS, usage=Usage(3, 6)),
]
ORDER = [
    "created", "in_progress",
    "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done",
    "output_item.done",
    "output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done",
    "content_part.done", "output_item.done",
    "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
    "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
    "completed",
]  # fmt: skip


def test_events_come_in_openai_s_order() -> None:
    with serve(FakeService(chunks=SPOKEN)) as slot:
        streamed = respond(slot, stream=True)
        whole = respond(slot).json()
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = typed_events(dechunk(streamed.body))
    assert [event["type"] for event in events] == [f"response.{name}" for name in ORDER]
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    last = events[-1]["response"]
    assert last["usage"]["output_tokens_details"] == {"reasoning_tokens": 2} and last["status"] == "completed"
    for item, other in zip(last["output"], whole["output"], strict=True):
        assert {**item, "id": ""} == {**other, "id": ""}
    assert [item["type"] for item in last["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert last["output"][2] | {"id": ""} == {
        "id": "", "type": "function_call", "status": "completed", "call_id": "1", "name": "weather", "arguments": "{}",
    }  # fmt: skip


def answer(stream: bool, **fields: Any) -> ResponseAnswer:
    return ResponseAnswer(read_response({"input": "hi", "stream": stream, **fields}, 1.0), "alpha", 3)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches())
def test_the_pieces_of_a_stream_are_the_whole(given: list[list[Chunk]]) -> None:
    streamed, whole = answer(True), answer(False)
    events = typed_events(b"".join(map(streamed.events, given)) + streamed.end(Usage(3, 1)))
    for batch in given:
        whole.add(batch)
    last, expected = events[-1]["response"], whole.whole(Usage(3, 1))
    assert [{**item, "id": ""} for item in last["output"]] == [{**item, "id": ""} for item in expected["output"]]
    assert {**last, "output": [], "id": "", "created_at": 0} == {**expected, "output": [], "id": "", "created_at": 0}
    said = ["" for _ in last["output"]]
    opened = []
    for event in events:
        if event["type"] == "response.output_item.added":
            opened.append(event["item"]["id"])
        if "delta" in event:
            assert event["output_index"] == len(opened) - 1 and event["item_id"] == opened[-1]
            said[event["output_index"]] += event["delta"]
    assert said == [
        item.get("arguments", "".join(p["text"] for p in item.get("content", []))) for item in last["output"]
    ]
    assert opened == [item["id"] for item in last["output"]]
    spoken = [chunk for batch in given for chunk in batch]
    for kind, expected_text in (("reasoning", [c.reasoning for c in spoken]), ("message", [c.text for c in spoken])):
        shown = "".join(p["text"] for i in last["output"] if i["type"] == kind for p in i["content"])
        assert shown == "".join(expected_text)


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    found = answer(False)
    found.add([Chunk("x", finish=STOP, usage=Usage(3, 0))])
    (item,) = found.whole(Usage(3, 0))["output"]
    assert item["content"][0]["text"] == "" and item["status"] == "completed"


@pytest.mark.parametrize(("finish", "why"), [(LENGTH, "max_output_tokens"), (CANCELLED, "cancelled")])
def test_why_it_is_incomplete(finish: str, why: str) -> None:
    found = answer(True)
    found.events([Chunk("x", text="a"), Chunk("x", finish=finish)])
    (*_, last) = found.end(Usage(3, 1)).decode().strip().split("\n\n")
    assert last.startswith("event: response.incomplete\n")
    response = json.loads(last.split("data: ")[1])["response"]
    assert response["incomplete_details"] == {"reason": why} and response["output"][0]["status"] == "incomplete"


def test_logprobs_are_in_the_part_and_in_the_events() -> None:
    one = TokenLogprob("a", 1, -0.5, (("b", 2, -1.0),))
    found = answer(True, include=["message.output_text.logprobs"])
    data = found.events([Chunk("x", text="a", logprobs=(one,))]) + found.end(Usage(3, 1))
    events = typed_events(data)
    shown = {"token": "a", "logprob": -0.5, "bytes": [97]}
    expected = [{**shown, "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": [98]}]}]
    assert [e["logprobs"] for e in events if e["type"].startswith("response.output_text")] == [expected] * 2
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == expected


def test_an_engine_that_fails_in_the_middle_ends_the_stream_with_response_failed(slot: FakeSlot) -> None:
    slot.service.fail_at = 1
    *before, last = typed_events(dechunk(respond(slot, stream=True).body))
    assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "engine died"}
    assert [e["delta"] for e in before if "delta" in e] == ["Hello"]
    failed = respond(slot)
    assert failed.status == 500 and failed.json()["error"]["code"] == "engine_died"


def test_an_empty_reasoning_object_asks_for_nothing() -> None:
    assert read_response({"input": "hi", "reasoning": {}}, 1.0).request.effort is None
