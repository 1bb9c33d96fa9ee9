"""Open WebUI in front of our gateway, used in a browser: a handle is picked, a question asked, a picture sent. By hand
or at night: scripts/nightly-gateway."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmctl import keys
from llmctl.gateway import life, registry
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.slots.state import Launch
from scripts.tiny.vision.drawing import Thing, draw
from tests.conftest import RunningSlot, eventually, free_port
from tests.real_clients import web_ui
from tests.real_clients.test_clients import ANSWER

SHOWN = "A red circle."


@pytest.fixture
def gateway(clients_home: Path, talking_slot: RunningSlot, seeing_slot: RunningSlot) -> Iterator[RunningSlot]:
    """A gateway that asks for a key, with a handle for each of the two slots."""
    slots = {"talks": talking_slot, "sees": seeing_slot}
    handles = [
        Handle(name, (Replica("here", slot.port, str(slot.status().model), "torch", f"127.0.0.1:{slot.port}"),))
        for name, slot in slots.items()
    ]
    registry.write(clients_home, Registry({one.name: one for one in handles}, "talks"))
    keys.show(clients_home)
    made = RunningSlot(clients_home, free_port(), Launch(require_key=True))
    life.up(clients_home, made.port, made.launch)
    try:
        eventually(lambda: life.status(clients_home, made.port)["handles"] == ["talks", "sees"])
        yield made
    finally:
        made.kill()


def test_a_person_picks_a_handle_asks_and_sends_a_picture(
    python: Callable[[str], Path], gateway: RunningSlot, tmp_path: Path
) -> None:
    draw(Thing("red", "circle"), random.Random(7)).save(tmp_path / "picture.png")
    question = {"model": "talks", "question": "What is a slot?", "answer": ANSWER}
    picture = {
        "model": "sees", "question": "What is in the picture?", "answer": SHOWN, "image": str(tmp_path / "picture.png"),
    }  # fmt: skip
    key = keys.show(gateway.home)["client"]
    with web_ui.serving(python, tmp_path, gateway.base_url, key) as url:
        said = web_ui.browsed(python, "gateway-open-webui", url=url, chats=[question, picture])
    assert ANSWER in said[0] and SHOWN in said[1]
    assert "What is a slot?" not in gateway.log()
