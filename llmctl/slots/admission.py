"""Does it fit, and in which order: a pure decision, and the host-wide ledger of reservations it stands on.

The ledger is needed because measured free memory lies: an engine that is still loading has not taken its memory yet,
and a mapped GGUF never shows in it at all.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.errors import DoesNotFit
from llmctl.files import locked, read_json, write_json
from llmctl.processes import ProcessId

NEW_FIRST, OLD_FIRST = "new-first", "old-first"


@dataclass(frozen=True)
class Room:
    """Memory as a decision sees it, in bytes. `reserved` is what other slots hold; `current` what this slot holds;
    `resident` what this slot's engine would really give back."""

    free: int
    budget: int
    reserved: int = 0
    current: int = 0
    resident: int = 0


def decide(needed: int, room: Room, order: str = "auto") -> str:
    """NEW_FIRST or OLD_FIRST; DoesNotFit with the numbers when the asked order (or, for auto, neither) fits."""
    beside = min(room.free, room.budget - room.reserved - room.current)
    alone = min(room.free + room.resident, room.budget - room.reserved)
    if needed <= beside and order in ("auto", NEW_FIRST):
        return NEW_FIRST
    if needed <= alone and order in ("auto", OLD_FIRST):
        return OLD_FIRST
    have = beside if order == NEW_FIRST else alone
    raise DoesNotFit(
        f"needs {gb(needed)}, has {gb(have)} (free {gb(room.free)}, budget {gb(room.budget)}, "
        f"reserved by other slots {gb(room.reserved)}, held by this slot {gb(room.current)})",
        hint="a smaller context or fewer parallel sequences need less; `llmctl status` shows what other slots hold"
        if order != NEW_FIRST
        else "swap with --order old-first, which stops the old model first",
        details={"needed": needed, "available": have, **room.__dict__},
    )


def gb(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.2f} GB" if abs(size) >= 1e8 else f"{size / 1e6:.1f} MB"


@dataclass(frozen=True)
class RankEntry:
    """A reservation for a share of a model whose `slot` (HOST:PORT) is on another host."""

    slot: str
    model: str
    engine: str
    bytes: int
    pid: int


class Ledger:
    """The reservations of all slots of a host, in one file under a lock that is held for the decision only."""

    def __init__(self, home: Path) -> None:
        self.path = home / "ledger.json"
        self.lock = home / "ledger.lock"

    def reserve(
        self, port: int, needed: int, *, free: int, budget: int, resident: int, order: str = "auto"
    ) -> tuple[str, str]:
        """Decide and reserve in one step: (reservation id, order). What a dead process reserved does not count.

        New-first reserves both models. Old-first adds only what makes the sum the larger of the two, so that a
        rollback always has its memory; `settle` makes it exact when the swap is over.
        """
        with locked(self.lock):
            entries = self._live()
            mine = sum(e["bytes"] for e in entries.values() if e["port"] == port)
            others = sum(e["bytes"] for e in entries.values() if e["port"] != port)
            chosen = decide(needed, Room(free, budget, others, mine, resident), order)
            key = uuid.uuid4().hex[:12]
            owner = ProcessId.of(os.getpid())
            size = needed if chosen == NEW_FIRST else max(0, needed - mine)
            entries[key] = {"port": port, "bytes": size, "owner": owner.__dict__}
            write_json(self.path, entries)
            return key, chosen

    def reserve_rank(self, slot: str, needed: int, *, free: int, budget: int, model: str, engine: str) -> None:
        """Reserve, for as long as this process lives, a share of the model in a `slot` of another host."""
        with locked(self.lock):
            entries = self._live()
            decide(needed, Room(free, budget, sum(e["bytes"] for e in entries.values())), NEW_FIRST)
            owner = ProcessId.of(os.getpid())
            entry = {"port": slot, "bytes": needed, "owner": owner.__dict__, "model": model, "engine": engine}
            entries[uuid.uuid4().hex[:12]] = entry
            write_json(self.path, entries)

    def ranks(self) -> list[RankEntry]:
        """The shares that this host computes of models in slots of others."""
        with locked(self.lock):
            ranks = [e for e in self._live().values() if "model" in e]
        return [RankEntry(e["port"], e["model"], e["engine"], e["bytes"], e["owner"]["pid"]) for e in ranks]

    def reserved(self) -> int:
        """The bytes that all slots of this host hold now."""
        with locked(self.lock):
            return sum(e["bytes"] for e in self._live().values())

    def by_port(self) -> dict[int, int]:
        """The bytes that each slot of this host holds now."""
        found: dict[int, int] = {}
        with locked(self.lock):
            for entry in self._live().values():
                if isinstance(entry["port"], int):
                    found[entry["port"]] = found.get(entry["port"], 0) + entry["bytes"]
        return found

    def release(self, key: str | None) -> None:
        """Give a reservation back; an unknown one is ignored."""
        with locked(self.lock):
            entries = self._live()
            if key and entries.pop(key, None):
                write_json(self.path, entries)

    def settle(self, key: str, size: int, held: str | None) -> None:
        """An old-first swap is over: `key` holds exactly `size`, the old model's reservation `held` is gone."""
        with locked(self.lock):
            entries = self._live()
            if held:
                entries.pop(held, None)
            if key in entries:
                entries[key]["bytes"] = size
            write_json(self.path, entries)

    def _live(self) -> dict[str, Any]:
        entries: Mapping[str, Any] = read_json(self.path) or {}
        return {k: e for k, e in entries.items() if ProcessId(**e["owner"]).alive()}
