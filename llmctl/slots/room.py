"""Makes room on this host for a model: unloads others that may go, and tells before what it would unload."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmctl import backends
from llmctl.domain import CRASH_LOOP, DISABLED, DOWN, GATEWAY, READY, SLEEPING, SlotSpec
from llmctl.files import take_lock
from llmctl.slots import status, verbs
from llmctl.slots.admission import OLD_FIRST, Ledger, gb
from llmctl.slots.eviction import Holder, Space, victims
from llmctl.slots.state import Launch, SlotFolder
from llmctl.slots.status import SlotStatus

REST = 1.0
"""Seconds after its last request in which a slot is taken for busy: who asks one question after another is not cut."""
OnEvent = Callable[[dict[str, Any]], None]


def needed(home: Path, port: int, spec: SlotSpec, launch: Launch, order: str = "auto") -> list[Holder]:
    """Who would have to go before `spec` is loaded on `port`. Busy, or DoesNotFit with the numbers."""
    return victims(spec.needed_bytes, space(home, port, launch, order), _holders(home, port), spec.exclusive)


@contextlib.contextmanager
def made(
    home: Path, port: int, spec: SlotSpec, launch: Launch, on_event: OnEvent, order: str = "auto"
) -> Iterator[OnEvent]:  # fmt: skip
    """Room for `spec`, kept from others until its slot has reserved it: that is at the first event of the change, which
    goes to the function that is given. One slot after another is unloaded, and the memory measured again."""
    lock: int | None = take_lock(home / "room.lock", wait=True, what="the room of this host")

    def open_again() -> None:
        nonlocal lock
        if lock is not None:
            os.close(lock)
            lock = None

    def reserved(event: dict[str, Any]) -> None:
        open_again()
        on_event(event)

    try:
        while gone := needed(home, port, spec, launch, order):
            one = gone[0]
            on_event(_stage("make room"))
            on_event({
                "event": "note",
                "message": f"{one.port}: unload {one.model} ({gb(one.measured)}), to make room for {spec.model}",
            })  # fmt: skip
            verbs.unload(home, one.port, unused=REST, on_event=on_event)
        yield reserved
    finally:
        open_again()


def space(home: Path, port: int, launch: Launch, order: str = "auto") -> Space:
    """What a model on `port` can have now; what that slot itself holds counts where it may go first."""
    memory, ledger = backends.get(launch.backend).memory(), Ledger(home)
    found = Space(memory.free, (launch.memory_budget or memory.total) - ledger.reserved())
    own = [row for row in status.status(home) if row.port == port]
    if not own or order not in ("auto", OLD_FIRST):
        return found
    return Space(found.free + _measured(own[0]), found.budget + ledger.by_port().get(port, 0))


def row(one: Holder) -> dict[str, Any]:
    """The JSON of a slot that would go: what its end gives back."""
    return {"port": one.port, "model": one.model, "bytes": one.measured, "reserved": one.reserved,
            "unused": one.unused}  # fmt: skip


def _holders(home: Path, port: int) -> Iterator[Holder]:
    """All other slots with a model; one that is disabled has none, and keeps what it comes back with."""
    reserved = Ledger(home).by_port()
    for row in status.status(home):
        spec = SlotFolder(home, row.port).read_desired().spec
        if row.port == port or spec is None or spec.engine.engine == GATEWAY or row.state == DISABLED:
            continue
        yield Holder(
            row.port, spec.model, _measured(row), reserved.get(row.port, 0), row.unused, spec.evictable,
            _busy(row, row.port in reserved), spec.exclusive,
        )  # fmt: skip


def _measured(row: SlotStatus) -> int:
    """What its end gives back: of the machine's memory, or of that of the device that its engine says it is on."""
    return max(row.memory_bytes, sum(row.residency.values()))


def _busy(row: SlotStatus, holds: bool) -> str:
    """What a slot is doing that must not be cut; it `holds` what it has reserved for an engine."""
    if row.operation:
        return f"under {row.operation}"
    if row.active or row.queued:
        return f"answering {row.active + row.queued}"
    if row.state == READY and row.unused < REST:
        return "used just now"
    if row.state in (DOWN, CRASH_LOOP) and not holds:  # one that is down and holds something answers nobody now
        return ""
    return "" if row.state in (READY, SLEEPING) else row.state


def _stage(name: str) -> dict[str, Any]:
    return {"event": "stage", "stage": name, "done": 0, "total": 0, "elapsed": 0.0, "eta": None}
