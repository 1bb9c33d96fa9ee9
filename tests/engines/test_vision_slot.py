"""A slot with an image-text model: right answers over HTTP, and clear refusals."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import Limits, MediaPolicy
from llmctl.slots.state import Launch
from tests.clients import chat, get, post, sse
from tests.conftest import RunningSlot, free_port
from tests.drawn import drawn
from tests.runner.test_real_engines import real

pytest.importorskip("torch")
WHAT = "What is in the picture?"


@pytest.fixture(scope="module")
def seeing(vision_model: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSlot]:
    """One slot with the vision model for all of these tests."""
    policy = MediaPolicy(str(tmp_path_factory.mktemp("pictures")))
    slot = RunningSlot(tmp_path_factory.mktemp("v"), free_port(), Launch(limits=Limits(drain=5.0), media=policy))
    slot.change("load", real("torch", "tiny-vision", vision_model["tiny-vision"]))
    yield slot
    slot.kill()


def user(*parts: str | bytes) -> dict[str, Any]:
    """A user's message of texts and pictures."""
    return {"role": "user", "content": [part_of(one) for one in parts]}


def part_of(one: str | bytes) -> dict[str, Any]:
    if isinstance(one, str):
        return {"type": "text", "text": one}
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(one).decode()}}


def ask(slot: RunningSlot, *messages: dict[str, Any], **fields: Any) -> Any:
    """(status, body) of a chat."""
    body = {"messages": list(messages), "temperature": 0, "max_tokens": 40, **fields}
    status, _, answer = post(slot.port, "/v1/chat/completions", body)
    return status, answer


def said(answer: Any, choice: int = 0) -> str:
    return str(answer["choices"][choice]["message"]["content"])


def test_a_picture_is_named_whole_and_streamed(seeing: RunningSlot) -> None:
    status, whole = ask(seeing, user(drawn("red circle"), WHAT))
    assert (status, said(whole)) == (200, "A red circle.")
    assert whole["usage"]["prompt_tokens"] > 9
    _, events = ask(seeing, user(drawn("red circle"), WHAT), stream=True)
    rows = [row for row in sse(events) if row != "[DONE]"]
    assert "".join(row["choices"][0]["delta"].get("content") or "" for row in rows) == "A red circle."


def test_the_slot_says_that_it_takes_images(seeing: RunningSlot) -> None:
    model = get(seeing.port, "/v1/models")[2]["data"][0]
    assert model["modalities"]["input"] == ["text", "image"]


def test_pictures_of_several_turns_and_clients_stay_apart(seeing: RunningSlot) -> None:
    things = ["red circle", "blue square", "green cross", "black triangle"] * 2

    def one(thing: str) -> str:
        first = {"role": "assistant", "content": "A pink square."}
        _, answer = ask(seeing, user(drawn("pink square"), WHAT), first, user(drawn(thing), WHAT), n=2)
        assert said(answer) == said(answer, 1)
        return said(answer)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, things)) == [f"A {thing}." for thing in things]


def test_a_picture_in_the_folder_of_the_host_is_named_over_a_websocket(seeing: RunningSlot) -> None:
    from websockets.sync.client import connect

    Path(str(seeing.launch.media.folder), "a.png").write_bytes(drawn("blue square"))
    prompt = {"user": WHAT, "images": [{"path": "a.png"}]}
    with connect(f"ws://127.0.0.1:{seeing.port}/ws", proxy=None) as ws:
        ws.send(json.dumps({"type": "hello"}))
        assert json.loads(ws.recv(timeout=60))["capabilities"]["vision"] is True
        ws.send(json.dumps({"prompt": prompt, "config": {"temperature": 0, "max_tokens": 40}}))
        events = [json.loads(ws.recv(timeout=60))]
        while events[-1]["type"] not in ("done", "error"):
            events.append(json.loads(ws.recv(timeout=60)))
        assert "".join(one["data"] for one in events if one["type"] == "token") == "A blue square."
        ws.send(json.dumps({"prompt": {**prompt, "images": [{"path": "../a.png"}]}}))
        assert json.loads(ws.recv(timeout=60))["message"].endswith("there is no such image")


def test_a_picture_cut_short_is_a_400_and_the_engine_lives(seeing: RunningSlot) -> None:
    pid = seeing.engine_pid()
    status, answer = ask(seeing, user(drawn("red circle"), drawn("blue square")[:80], WHAT))
    assert status == 400 and "image 2 cannot be decoded" in answer["error"]["message"]
    status, answer = ask(seeing, user(*[drawn("red circle")] * 16, WHAT * 100))
    assert status == 400 and answer["error"]["code"] == "context_length_exceeded"
    assert "size of 512" in answer["error"]["message"]
    assert said(ask(seeing, user(drawn("red circle"), WHAT))[1]) == "A red circle."
    assert seeing.engine_pid() == pid


def test_a42_an_image_to_a_text_only_model_is_a_400(slots: Any, tiny_models: dict[str, Path]) -> None:
    slot = slots(real("torch", "tiny-qwen2", tiny_models["tiny-qwen2"]))
    pid = slot.engine_pid()
    for stream in (False, True):
        status, answer = ask(slot, user(drawn("red circle"), WHAT), stream=stream)
        answer = json.loads(answer) if isinstance(answer, str) else answer
        assert status == 400 and answer["error"]["code"] == "unsupported_content"
    assert chat(slot.port, "What is a slot?", temperature=0)[0] == 200 and slot.engine_pid() == pid
