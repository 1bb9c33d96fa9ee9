"""A host looks at its own slots again and again and tells when something changed; imports as little as it can.

A look is JSON: {at, version, slots: [rows of status], shares, memory {free, total}, disk {free, total}, load, events}.
`load` is the load average of a minute, `events` are those that came since the look before. What cannot be read is None.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl import __version__, events, paths
from llmctl.errors import LlmctlError
from llmctl.files import standing
from llmctl.slots import status

BEAT = 10.0
"""Seconds after which a host says something though nothing changed."""
LEAST, MOST = 0.1, BEAT
"""Seconds between two looks."""
FIRST_EVENTS = 20
MANY = 2000
FINE, COARSE = 0.1, 2**24
"""Tokens/s and bytes that are worth a line."""

Wait = Callable[[float], bool]
"""Sleeps so many seconds; True when it is over."""


def looks(home: Path, host: str, every: float, wait: Wait) -> Iterator[dict[str, Any]]:
    """The first look at once, then one whenever slots, shares or events are not as they were, and at every BEAT."""
    events, told, spoken = _Events(home), None, 0.0
    while True:
        slots, shares, new = _slots(home, host), _shares(home), events.new()
        telling = ([_rough(slot) for slot in slots], shares)
        now = time.monotonic()
        if telling != told or new or now - spoken >= BEAT:
            told, spoken = telling, now
            yield {
                "at": time.time(), "version": __version__, "slots": slots, "shares": shares, "memory": _memory(),
                "disk": _disk(home), "load": _load(), "events": new,
            }  # fmt: skip
        if wait(min(every, max(0.0, BEAT - (time.monotonic() - spoken)))):
            return


def _slots(home: Path, host: str) -> list[dict[str, Any]]:
    """All slots, asked at once: one that hangs holds up nobody else for longer than its own time."""
    ports = paths.slot_ports(home)
    found: dict[int, dict[str, Any]] = {}

    def ask(port: int) -> None:
        with contextlib.suppress(LlmctlError, OSError):  # taken away since it was listed
            found[port] = asdict(status.status(home, [port], host)[0])

    if len(ports) < 2:
        for port in ports:
            ask(port)
    else:
        asking = [threading.Thread(target=ask, args=(port,), daemon=True) for port in ports]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
    return [found[port] for port in ports if port in found]


def _rough(slot: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what always changes a little."""
    rate, memory = slot["tokens_per_second"], slot["memory_bytes"]
    behind = [{**replica, "tokens": 0} for replica in slot["replicas"]]
    rough = {"tokens_per_second": round(rate / FINE), "memory_bytes": memory // COARSE, "replicas": behind}
    return {**slot, **rough, "unused": 0.0}


def _shares(home: Path) -> Sequence[Any]:
    try:
        return status.shares(home)
    except (LlmctlError, OSError):
        return []


class _Events:
    """What the host's slots and deploys noted; the first time the last few."""

    def __init__(self, home: Path) -> None:
        self.home, self.cursor = home, ""

    def new(self) -> list[dict[str, Any]]:
        first, found, more = not self.cursor, [], True
        while more:
            got, self.cursor = events.since(self.home, self.cursor, MANY)
            found += got
            more = len(got) == MANY
        return found[-FIRST_EVENTS:] if first else found


def _memory() -> dict[str, int] | None:
    from llmctl.backends import cpu

    try:
        memory = cpu.memory()
    except (LlmctlError, OSError, ValueError):
        return None
    return {"free": memory.free, "total": memory.total}


def _disk(home: Path) -> dict[str, int] | None:
    try:
        disk = shutil.disk_usage(standing(home))
    except OSError:
        return None
    return {"free": disk.free, "total": disk.total}


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
