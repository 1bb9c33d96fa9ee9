"""OpenAI's chat over a WebSocket: the events of the HTTP stream as messages, several turns on one connection."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from llmctl.errors import RequestError
from tests.clients import sse
from tests.runner.fake_slot import FakeService, FakeSlot, post, raw, serve
from tests.runner.sockets import CHAT, answer, question, websocket

WORDS = "Hello wörld 😀!"


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        yield slot


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"n": 2}, {"logprobs": True, "top_logprobs": 1}, {"stream_options": {"include_usage": True}},
        {"temperature": 0.5, "max_tokens": 7, "stop": ["x"], "seed": 3},
    ],
)  # fmt: skip
def test_the_messages_are_the_events_of_the_stream_over_http(slot: FakeSlot, fields: dict[str, object]) -> None:
    body = question(**fields)
    response = raw(slot.port, post(CHAT, json.dumps({**body, "stream": True}).encode()))
    lines = [line for line in response.body.decode().splitlines() if line.startswith("data: ")]
    with websocket(slot.port) as client:
        client.say(body)
        heard = client.hear_until("[DONE]")
    assert unnamed(heard) == unnamed(sse("\n".join(lines)))
    over_http, over_socket = slot.service.seen
    assert {**over_http.__dict__, "id": ""} == {**over_socket.__dict__, "id": ""}


def unnamed(events: list[object]) -> list[object]:
    """Events without what differs from answer to answer."""
    return [{**e, "id": "", "created": 0} if isinstance(e, dict) else e for e in events]


def test_several_turns_whatever_the_client_says_of_streaming(slot: FakeSlot) -> None:
    with websocket(slot.port) as client:
        ids = set()
        for stream in (None, True, False, None):
            client.say(question() if stream is None else question(stream=stream))
            events = client.hear_until("[DONE]")
            assert answer(events) == WORDS
            ids |= {event["id"] for event in events[:-1]}
        assert len(ids) == 4
        assert all(request.messages == ({"role": "user", "content": "hi"},) for request in slot.service.seen)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"), ({"messages": []}, "messages"), (question(temperature=3), "temperature"),
        (question(model="nobody"), "model"), (question(temprature=1), "temprature"),
    ],
)  # fmt: skip
def test_an_error_is_that_of_http_and_the_next_turn_is_good(
    slot: FakeSlot, body: dict[str, object], param: str
) -> None:
    response = raw(slot.port, post(CHAT, json.dumps(body).encode()))
    with websocket(slot.port) as client:
        client.say(body)
        error, done = client.hear(), client.hear()
        assert error == response.json() and error["error"]["param"] == param and done == "[DONE]"
        client.say(question())
        assert answer(client.hear_until("[DONE]")) == WORDS


def test_an_error_that_tells_when_to_come_again_does_so_here_too() -> None:
    busy = RequestError("7 requests wait already", status=429, code="queue_full", details={"retry_after": 3})
    with serve(FakeService(refusal=busy)) as slot, websocket(slot.port) as client:
        client.say(question())
        assert client.hear()["error"]["details"] == {"retry_after": 3}
