"""Makes room on this host for a model: unloads others that may go, and tells before what it would unload."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmctl import backends
from llmctl.domain import GATEWAY, READY, SLEEPING, SlotSpec
from llmctl.slots import status, verbs
from llmctl.slots.admission import Ledger
from llmctl.slots.eviction import Holder, victims
from llmctl.slots.state import Launch, SlotFolder
from llmctl.slots.status import SlotStatus

OnEvent = Callable[[dict[str, Any]], None]


def needed(home: Path, port: int, spec: SlotSpec, launch: Launch) -> list[Holder]:
    """Who would have to go before `spec` is loaded on `port`. Busy, or DoesNotFit with the numbers."""
    memory, ledger = backends.get(launch.backend).memory(), Ledger(home)
    free = min(memory.free, (launch.memory_budget or memory.total) - ledger.reserved())
    return victims(spec.needed_bytes, free, _holders(home, port), spec.exclusive)


def make(home: Path, port: int, spec: SlotSpec, launch: Launch, on_event: OnEvent) -> list[Holder]:
    """Unload them, one after another; who went."""
    gone = needed(home, port, spec, launch)
    for one in gone:
        on_event({"event": "note", "message": f"{one.port}: unload {one.model}, to make room for {spec.model}"})
        verbs.unload(home, one.port, on_event=on_event)
    return gone


def _holders(home: Path, port: int) -> Iterator[Holder]:
    """All other slots with a model; what none of them shows in memory is what it reserved."""
    reserved = Ledger(home).by_port()
    for row in status.status(home):
        spec = SlotFolder(home, row.port).read_desired().spec
        if row.port == port or spec is None or spec.engine.engine == GATEWAY:
            continue
        held = max(row.memory_bytes, reserved.get(row.port, 0))
        yield Holder(row.port, spec.model, held, row.unused, spec.evictable, _busy(row), spec.exclusive)


def _busy(row: SlotStatus) -> str:
    """What a slot is doing that must not be cut."""
    if row.operation:
        return f"under {row.operation}"
    if row.active or row.queued:
        return f"answering {row.active + row.queued}"
    return "" if row.state in (READY, SLEEPING) else row.state
