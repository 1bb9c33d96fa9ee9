"""What a slot server notes as events while everything happens to its slot that can."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl import events
from llmctl.domain import EngineSpec, SlotSpec
from llmctl.errors import LlmctlError, LoadFailed
from llmctl.runner.bring_up import Effects
from llmctl.runner.slot import Slot
from llmctl.slots import control, verbs
from llmctl.slots.launch import ensure_server
from llmctl.slots.state import Desired, SlotFolder
from tests.clients import chat
from tests.conftest import RunningSlot, eventually
from tests.runner.test_schedules import Metrics, VirtualLoop

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]


class Reader:
    """What was noted since it was asked last."""

    def __init__(self, home: Path) -> None:
        self.home = home
        _, self.cursor = events.since(home, "")

    def new(self) -> list[dict[str, Any]]:
        found, self.cursor = events.since(self.home, self.cursor)
        return found

    def one(self) -> dict[str, Any]:
        (found,) = eventually(self.new)
        return dict(found)

    def until(self, kind: str) -> list[dict[str, Any]]:
        """All up to the first of this kind."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found.extend(self.new())
            return any(event["kind"] == kind for event in found)

        eventually(there)
        return found


def told(event: dict[str, Any]) -> tuple[str, str, str | None]:
    return event["kind"], event["outcome"], event["model"]


def test_operators_changes_are_noted_with_who_and_how_it_went(slots: Slots, script: Script, home: Path) -> None:
    reader = Reader(home)
    slot = slots(script("alpha"))
    loaded = reader.one()
    assert told(loaded) == ("load", "ok", "alpha") and loaded["port"] == slot.port
    assert loaded["details"]["who"] == control.who() and loaded["details"]["seconds"] > 0
    assert slot.status().last_good is None

    slot.change("swap", script("beta"))
    swapped = reader.one()
    assert told(swapped) == ("swap", "ok", "beta") and slot.status().last_good == "alpha"
    assert (swapped["details"]["previous"], swapped["details"]["order"]) == ("alpha", "new-first")
    assert slot.status().last_good == "alpha"

    with pytest.raises(LlmctlError):
        slot.change("swap", script("broken", fail="load"))
    failed = reader.one()
    assert told(failed) == ("swap", "failed", "broken")
    assert failed["what"] and failed["details"]["rolled_back_to"] == "beta"

    verbs.disable(home, slot.port, "new fan")
    disabled = reader.one()
    assert (*told(disabled), disabled["what"]) == ("disable", "ok", "beta", "new fan")
    verbs.enable(home, slot.port)
    assert told(reader.one()) == ("enable", "ok", "beta")
    verbs.restart(home, slot.port)
    assert told(reader.one()) == ("restart", "ok", "beta")
    verbs.restart(home, slot.port, reexec=True)
    assert told(reader.one()) == ("adopt", "ok", "beta")
    verbs.enable(home, slot.port)
    assert told(reader.one()) == ("enable", "ok", "beta"), "it was not disabled, and goes on"
    verbs.unload(home, slot.port)
    assert told(reader.one()) == ("unload", "ok", "beta")
    verbs.disable(home, slot.port, "new fan")
    assert told(reader.one()) == ("disable", "ok", None)
    verbs.enable(home, slot.port)
    assert told(reader.one()) == ("enable", "ok", None)
    slot.kill()
    assert slot.status().last_good == "alpha"


def test_a_slot_that_is_down_is_unloaded_with_a_note(slots: Slots, script: Script, home: Path) -> None:
    slot = slots(script("alpha"))
    slot.kill()
    reader = Reader(home)
    verbs.unload(home, slot.port)
    assert told(reader.one()) == ("unload", "ok", "alpha")


def test_a_slots_own_doings_are_noted(slots: Slots, script: Script, home: Path) -> None:
    slot = slots(script("alpha", idle_unload=1.0))
    reader = Reader(home)
    slept = reader.one()
    assert told(slept) == ("sleep", "ok", "alpha") and slept["details"]["who"] == "llmctl"
    assert chat(slot.port)[0] == 200
    assert told(reader.one()) == ("wake", "ok", "alpha")

    slot.kill()
    ensure_server(home, slot.port)
    assert told(reader.until("restart")[-1]) == ("restart", "ok", "alpha")


def test_crashes_are_noted_and_counted(slots: Slots, script: Script, home: Path) -> None:
    slot = slots(script("alpha"))
    reader = Reader(home)
    assert (slot.status().crashes, slot.status().queue_limit) == (0, slot.launch.limits.queue)
    os.kill(slot.engine_pid() or 0, signal.SIGKILL)
    crashed, back = reader.until("restart")
    assert told(crashed) == ("crash", "failed", "alpha") and "killed" in crashed["what"]
    assert told(back) == ("restart", "ok", "alpha")
    assert slot.status().crashes == 1


def test_an_engine_that_never_comes_back_is_noted_each_time_and_at_last_as_a_loop(home: Path) -> None:
    """In virtual time: the real slot and a process that cannot be started."""
    noted: list[tuple[str, str]] = []

    def tell(kind: str, **said: Any) -> None:
        noted.append((kind, said["outcome"]))

    def ignored(*said: object) -> None: ...

    async def spawn(spec: SlotSpec) -> Any:
        raise LoadFailed("will not")

    async def story() -> dict[str, Any]:
        folder = SlotFolder(home, 8101)
        folder.make()
        folder.write_desired(Desired(SlotSpec(EngineSpec("x", "alpha", "/", "x"))))
        effects = Effects(spawn, lambda *said: ("r", "none"), ignored, ignored, ignored, happened=tell)
        slot = Slot(folder, effects, Metrics(), keep=False)
        slot.start()
        await asyncio.sleep(300)
        status = slot.status()
        await slot.close()
        return status

    loop = VirtualLoop()
    status = loop.run_until_complete(story())
    loop.close()
    assert noted == [*[("restart", "failed")] * 5, ("crash-loop", "failed")]
    assert (status["state"], status["crashes"]) == ("crash-loop", 5)


def test_f6_a_slot_goes_on_where_no_event_can_be_written(slots: Slots, script: Script, home: Path) -> None:
    (home / events.NAME).mkdir()
    slot = slots(script("alpha"))
    slot.change("swap", script("beta"))
    assert chat(slot.port)[0] == 200
    assert slot.log().count("the event swap could not be written") == 1
