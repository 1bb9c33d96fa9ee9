"""One message to people: a line for each slot, the worst first, and the slots as data."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmctl.health.changes import Key
from llmctl.health.verdict import DEGRADED, DOWN, OK, UNKNOWN

PROBLEM, RECOVERY = "problem", "recovery"
LINES, SLOTS = 20, 200
ENDED = {True: "is well again", False: "is not asked for any more"}
RANK = {"": 0, OK: 0, DEGRADED: 1, UNKNOWN: 2, DOWN: 3}


@dataclass(frozen=True)
class Message:
    """What is told at once: one line for each slot, and the slots as data."""

    kind: str
    title: str
    lines: tuple[str, ...]
    slots: tuple[Mapping[str, Any], ...]
    at: float

    @property
    def id(self) -> str:
        """Its own: who gets it twice can tell."""
        return hashlib.sha256("\n".join([str(self.at), self.title, *self.lines]).encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """All of it, for people."""
        return "\n".join([self.title, *self.lines] if len(self.lines) > 1 else self.lines)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "id": self.id, "text": self.text}


@dataclass(frozen=True)
class Said:
    """A line about one slot: of which kind, its `verdict` now, the `worst` that it came to, and the rest as data."""

    kind: str
    key: Key
    line: str
    verdict: str
    worst: str
    data: Mapping[str, Any]


def name_of(key: Key) -> str:
    """HOST or HOST:PORT."""
    return key[0] if key[1] is None else f"{key[0]}:{key[1]}"


def compose(said: Sequence[Said], at: float) -> Message:
    """One message of all lines, problems and the worst of them first."""
    ordered = sorted(said, key=lambda one: (one.kind != PROBLEM, -RANK[one.worst], one.key[0], one.key[1] or 0))
    kind = ordered[0].kind
    lines = [one.line for one in ordered]
    if len(lines) > LINES:
        lines[LINES:] = [f"and {len(lines) - LINES} more: llmctl health"]
    slots = tuple(
        {"host": host, "port": port, "kind": one.kind, "verdict": one.verdict, "worst": one.worst, **one.data}
        for one, (host, port) in ((one, one.key) for one in ordered[:SLOTS])
    )
    return Message(kind, _title([one for one in ordered if one.kind == kind]), tuple(lines), slots, at)


def _title(said: Sequence[Said]) -> str:
    """ "box:8101 is down", or "2 slots are down, 1 host is unknown"."""
    words = [f"is {one.verdict}" if one.kind == PROBLEM else ENDED[one.verdict == OK] for one in said]
    if len(said) == 1:
        return f"{name_of(said[0].key)} {words[0]}"
    if said[0].kind == RECOVERY:
        return f"{len(said)} are well again"
    counts = Counter(("host" if one.key[1] is None else "slot", one.verdict) for one in said)
    return ", ".join(f"{n} {what}{'s are' if n > 1 else ' is'} {verdict}" for (what, verdict), n in counts.items())
