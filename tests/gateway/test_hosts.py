"""The keys of slots: what `handles sync` writes is what the gateway presents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmctl import keys
from llmctl.domain import SlotSpec
from llmctl.files import write_json
from llmctl.gateway import hosts
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot
from tests.gateway.conftest import Start, handle
from tests.gateway.test_traffic import chat


def test_a_slot_that_asks_for_a_key_gets_that_of_its_host(
    home: Path, slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec], gateway: Start
) -> None:
    key = keys.show(home)["client"]
    slot = slots(script("alpha"), launch=Launch(require_key=True))
    write_json(home / "gateway" / hosts.NAME, {"config": None, "keys": {"here": key}})
    assert chat(slot.port, max_tokens=2).status_code == 401
    assert chat(gateway(handle("alpha", slot)).port, max_tokens=2).status_code == 200
