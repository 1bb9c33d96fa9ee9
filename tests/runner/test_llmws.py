"""llmws over a slot without an engine: every message of its shape, exactly; images in every form; hello in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from llmctl.domain import IMAGE, Identity, SlotSpec
from llmctl.errors import RequestError
from llmctl.runner.media.source import Source
from llmctl.runner.protocols import llmws
from llmctl.runner.protocols.llmws_fields import read_inference
from tests.conftest import RunningSlot
from tests.runner.fake_slot import FakeService, FakeSlot, serve
from tests.runner.sockets import LLMWS, Client, frame, raw_websocket, websocket

WORDS = ["Hello", " wörld", " \U0001f600", "!"]
CAPABILITIES = {
    "vision": False, "flash_attention": False, "sdpa": False, "compute_capability": None, "max_context": 1024,
    "training": False,
}  # fmt: skip
RESOURCES = {
    "device": "cpu", "engine": "scripted", "memory_bytes": 123, "parallel": 4, "active": 0, "queued": 2,
}  # fmt: skip
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
START = {"type": "start", "tokens_in": 3, "max_tokens": 5, "images_in": 0, "multimodal": False, "do_sample": True}


class Seeing(FakeService):
    """A model that takes images."""

    def identity(self) -> Identity | None:
        found = super().identity()
        return replace(found, inputs=("text", IMAGE), engine="torch") if found else None


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        yield slot


@pytest.fixture
def client(slot: FakeSlot) -> Iterator[Client]:
    with websocket(slot.port, LLMWS) as client:
        yield client


def asked(slot: FakeSlot, client: Client, message: dict[str, Any]) -> Any:
    """The request that a good message becomes."""
    client.say(message)
    assert client.hear_until("done", "error")[-1]["type"] == "done"
    return slot.service.seen[-1]


# ── hello ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def greeting(port: int, hello: Any, path: str = LLMWS) -> Any:
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as socket:
        client = Client(socket)
        client.say(hello)
        answer = client.hear()
        if answer["type"] == "error":
            assert client.closed() == (1008, "no hello")
        return answer


@pytest.mark.parametrize("path", ["/", "/ws"])
def test_hello_is_welcomed(slot: FakeSlot, path: str) -> None:
    welcome = greeting(slot.port, {"type": "hello", "session_id": "my-session"}, path)
    assert welcome == {
        "type": "welcome", "session_id": "my-session", "model": "alpha", "capabilities": CAPABILITIES,
        "resources": RESOURCES, "training": {"active": False},
    }  # fmt: skip


@pytest.mark.parametrize(
    "hello", [{}, {"type": "hello"}, {"session_id": None}, {"session_id": "a b"}, {"session_id": 7}]
)
def test_a_hello_without_a_session_of_its_own_gets_one(slot: FakeSlot, hello: dict[str, Any]) -> None:
    ids = {greeting(slot.port, hello)["session_id"] for _ in range(2)}
    assert len(ids) == 2 and all(id.startswith("session-") for id in ids)


@pytest.mark.parametrize("first", [{"type": "ping"}, {"prompt": "hi"}, {"type": "inference"}, "no json", "[]", b"{}"])
def test_another_first_message_is_an_error_and_a_close(slot: FakeSlot, first: Any) -> None:
    assert greeting(slot.port, first)["type"] == "error"
    assert not slot.service.seen


def test_no_hello_in_time_is_an_error_and_a_close(slot: FakeSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llmws, "HELLO", 0.3)
    with raw_websocket(slot.port, LLMWS) as sock:
        sock.sendall(frame(9, b""))  # a ping is no hello
        data = b""
        while piece := sock.recv(1000):
            data += piece
        assert b'"error", "message": "no hello within' in data and b"\x03\xf0no hello" in data


def test_what_the_model_can_is_told() -> None:
    with serve(Seeing()) as slot:
        capabilities = greeting(slot.port, {})["capabilities"]
        assert capabilities == {**CAPABILITIES, "vision": True, "sdpa": True}


# ── messages about the slot ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"type": "ping"}, {"type": "pong"}),
        ({"type": "ack"}, {"type": "ack_received"}),
        ({"type": "get_resources"}, {"type": "resources", "resources": RESOURCES}),
        (
            {"type": "get_status"},
            {"type": "status", "state": "ready", "model": "alpha", "ready": True, "active": 0, "queued": 2},
        ),
        (
            {"type": "list_models"},
            {"type": "models_list", "models": [{"name": "alpha", "path": "alpha", "source": "slot", "size_mb": 0.0}]},
        ),
        ({"type": "config", "data": {"temperature": 0.5}}, {"type": "config_ack", "ignored": []}),
        ({"type": "config", "data": {"theme": "dark"}}, {"type": "config_ack", "ignored": ["theme"]}),
    ],
)  # fmt: skip
def test_a_message_and_its_answer(client: Client, message: dict[str, Any], answer: dict[str, Any]) -> None:
    client.say(message)
    assert client.hear() == answer


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"type": "train", "request_id": "r", "dataset": []}, "train is refused: training is no part of a slot"),
        ({"type": "train_status"}, "train_status is refused"),
        ({"type": "save_snapshot", "name": "../x"}, "save_snapshot is refused"),
        ({"type": "download_model", "repo": "../.."}, "llmctl pull"),
        ({"type": "delete_model", "path": "/etc"}, "llmctl models rm"),
        ({"type": "switch_model", "model_path": "/etc/passwd"}, "llmctl swap PORT MODEL"),
        ({"type": "switch_model"}, "model_path: must be a string"),
        ({"type": "infrence"}, "did you mean inference?"),
        ({"type": 7}, "type: must be a string"),
        ({"type": "config", "data": []}, "data: must be an object"),
        ({"type": "config", "data": {"temperature": 9}}, "data.temperature: must be at least 0 and at most 2"),
        ({"type": "inference"}, "prompt: is missing"),
        ({"prompt": {}}, "prompt.user: is missing"),
        ({"prompt": {"user": ""}}, "prompt.user: is empty"),
        ({"prompt": ""}, "prompt.user: is empty"),
        ({"prompt": 7}, "prompt: must be an object or a string"),
        ({"prompt": {"usr": "x"}}, "unknown field prompt.usr; did you mean 'user'?"),
        ({"prompt": "<|user|>x<|end|>y"}, "prompt: has text between its turns"),
        ({"prompt": "<|system|>x<|end|>"}, "prompt: must end with a turn of the user"),
        ({"prompt": "<|user|>x<|end|><|assistant|>Well"}, "prompt: must end with a turn of the user"),
        ({"prompt": "x", "config": {"temperature": "hot"}}, "config.temperature: must be a number"),
        ({"prompt": "x", "config": {"max_tokens": 0}}, "config.max_tokens: must be at least 1"),
        ({"prompt": "x", "config": {"stop": [""]}}, "config.stop"),
        ({"prompt": "x", "confg": {}}, "unknown field confg; did you mean 'config'?"),
        ({"prompt": "x", "images": [PIXEL]}, "images[0]: alpha takes text, no image"),
        ({"prompt": "x", "images": [PIXEL] * 65}, "images: at most 64 are taken"),
        ({"prompt": "x", "images": [{"url": "file:///etc/passwd"}]}, "images[0].url"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why_and_the_talk_goes_on(slot: FakeSlot, client: Client, message: Any, says: str) -> None:
    client.say(message)
    error = client.hear()
    assert set(error) == {"type", "message"} and error["type"] == "error" and says in error["message"]
    assert not slot.service.seen
    client.say({"type": "ping"})
    assert client.hear() == {"type": "pong"}


# ── inference ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("type", [{"type": "inference"}, {}, {"type": None}])
def test_an_inference_starts_says_tokens_and_is_done(client: Client, type: dict[str, Any]) -> None:
    client.say({**type, "prompt": {"system": "Be brief.", "user": "hi"}, "config": {"max_tokens": 5}})
    start, *tokens, done = client.hear_until("done", "error")
    assert start == START
    assert tokens == [{"type": "token", "data": word} for word in WORDS]
    assert done == {"type": "done", "total_tokens": 4}


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ({"user": "hi"}, [("user", "hi")]),
        ({"system": "", "user": "hi"}, [("user", "hi")]),
        ({"system": "S", "user": "hi"}, [("system", "S"), ("user", "hi")]),
        ("hi", [("user", "hi")]),
        ("<|user|>hi<|end|>", [("user", "hi")]),
        ("<|system|>S<|end|><|user|>hi<|end|>", [("system", "S"), ("user", "hi")]),
        ("<|system|>S<|end|>\n<|user|>a\nb<|end|>\n<|assistant|>", [("system", "S"), ("user", "a\nb")]),
        ("<|user|>a<|end|><|assistant|>b<|end|><|user|>c", [("user", "a"), ("assistant", "b"), ("user", "c")]),
        ("say <|user|>", [("user", "say <|user|>")]),
    ],
)  # fmt: skip
def test_a_prompt_in_either_shape(slot: FakeSlot, client: Client, prompt: Any, messages: list[tuple[str, str]]) -> None:
    found = asked(slot, client, {"prompt": prompt})
    assert [(message["role"], message["content"]) for message in found.messages] == messages
    assert found.time_cap == slot.service.limits.request_time


def test_config_holds_for_a_message_or_for_all_that_follow(slot: FakeSlot, client: Client) -> None:
    assert asked(slot, client, {"prompt": "x"}).sampling.temperature == 1.0
    client.say({"type": "config", "data": {"temperature": 0.25, "top_k": 7, "max_new_tokens": 9}})
    client.hear()
    found = asked(slot, client, {"prompt": "x", "config": {"top_k": 3, "top_p": 0.5, "seed": 1, "stop": "y"}})
    assert (found.sampling.temperature, found.sampling.top_k, found.sampling.top_p) == (0.25, 3, 0.5)
    assert (found.max_tokens, found.sampling.seed, found.stop) == (9, 1, ("y",))
    found = asked(slot, client, {"prompt": "x", "config": {"do_sample": False, "max_tokens": 10**6}})
    assert (found.sampling.temperature, found.sampling.top_k) == (0.0, 7)
    assert found.max_tokens == 1024, "as many as the context has"


def test_start_tells_how_many_tokens_there_is_room_for(client: Client) -> None:
    client.say({"prompt": "x", "config": {"temperature": 0}})
    start = client.hear_until("done")[0]
    assert start["max_tokens"] == 1024 - 3 and start["do_sample"] is False


def test_an_error_of_too_long_a_prompt_has_both_numbers(slots: Callable[..., RunningSlot], script: Any) -> None:
    spec: SlotSpec = script("alpha")
    with websocket(slots(spec).port, LLMWS) as client:
        client.say({"prompt": "word " * 2000})
        error = client.hear()
        assert (error["max_context"], error["input_length"]) == (1024, 2002)
        assert "1024" in error["message"] and set(error) == {"type", "message", "max_context", "input_length"}
        client.say({"prompt": "hi", "config": {"max_tokens": 2}})
        assert client.hear_until("done", "error")[-1]["type"] == "done"


def test_pings_are_answered_while_an_answer_runs() -> None:
    with serve(FakeService(pause=0.2)) as slot, websocket(slot.port, LLMWS) as client:
        client.say({"prompt": "hi"})
        client.hear()
        client.say({"type": "ping"})
        events = client.hear_until("done", "error")
        assert {"type": "pong"} in events[:-1] and events[-1]["type"] == "done"


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("image", "how", "value", "at"),
    [
        (PIXEL, "base64", PIXEL, "images[0]"),
        (f"data:image/png;base64,{PIXEL}", "base64", PIXEL, "images[0]"),
        ({"base64": PIXEL}, "base64", PIXEL, "images[0].base64"),
        ({"data": PIXEL}, "base64", PIXEL, "images[0].data"),
        ({"data_url": f"data:image/png;base64,{PIXEL}"}, "base64", PIXEL, "images[0].data_url"),
        ({"source": {"data": PIXEL}}, "base64", PIXEL, "images[0].source.data"),
        ({"source": PIXEL}, "base64", PIXEL, "images[0].source"),
        ({"path": "a.png"}, "path", "a.png", "images[0].path"),
        ({"source": {"url": "https://example.com/a.png"}}, "url", "https://example.com/a.png", "images[0].source.url"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inside", [False, True])
def test_an_image_in_every_form(image: Any, how: str, value: str, at: str, inside: bool) -> None:
    prompt: dict[str, Any] = {"system": "S", "user": "What?"}
    body = {"prompt": {**prompt, "images": [image]}} if inside else {"prompt": prompt, "images": [image]}
    found = read_inference(body, {}, None, 1.0)
    assert found.sources == (Source(f"prompt.{at}" if inside else at, IMAGE, how, value),)
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    assert found.request.messages == ({"role": "system", "content": "S"}, {"role": "user", "content": parts})


def test_images_reach_the_engine_and_are_counted() -> None:
    with serve(Seeing()) as slot, websocket(slot.port, LLMWS) as client:
        client.say({"prompt": {"user": "", "images": [PIXEL]}, "images": PIXEL, "config": {"temperature": 0.7}})
        start = client.hear_until("done", "error")[0]
        assert start == {**START, "max_tokens": 1021, "images_in": 2, "multimodal": True}
        (request,) = slot.service.seen
        assert len(request.media) == 2 and request.media[0].data.startswith(b"\x89PNG")
        assert request.messages == ({"role": "user", "content": [{"type": "image"}] * 2},)
        assert request.sampling.temperature == 0.7


def test_a_path_and_a_url_are_off_by_default() -> None:
    with serve(Seeing()) as slot, websocket(slot.port, LLMWS) as client:
        for image in ({"path": "/etc/passwd"}, {"url": "http://127.0.0.1/x.png"}):
            client.say({"prompt": {"user": "x"}, "images": [image]})
            assert client.hear()["type"] == "error"
        assert not slot.service.seen


def test_a_refusal_of_the_slot_is_an_error_message() -> None:
    refusal = RequestError("128 requests wait already", status=429, code="queue_full", details={"retry_after": 1})
    with serve(FakeService(refusal=refusal)) as slot, websocket(slot.port, LLMWS) as client:
        client.say({"prompt": "hi"})
        assert client.hear() == {"type": "error", "message": "128 requests wait already"}
