"""What is to be thought of the slots behind a gateway, as it sees them: pure decisions over its rows of replicas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Replicas = Sequence[Mapping[str, Any]]


def to_ask(replicas: Replicas) -> list[str]:
    """The handles that may be asked for a token: that loads nothing, wakes nothing and keeps nothing loaded."""
    return [name for name, rows in _by_handle(replicas).items() if _awake(rows)]


def without(replicas: Replicas) -> Iterator[tuple[list[str], str]]:
    """The handles that no slot answers for, together with those for which it is the same slots, and why; one that is
    loaded on demand has always one."""
    by_why: dict[str, list[str]] = {}
    for name, rows in _by_handle(replicas).items():
        if all(row["resting"] and not row["on_demand"] for row in rows):
            by_why.setdefault("; ".join(f"{row['where']}: {row['why']}" for row in rows), []).append(name)
    yield from ((names, why) for why, names in by_why.items())


def _awake(rows: Replicas) -> bool:
    """Whether who is asked has its model, whichever of them that is."""
    asked = [row for row in rows if not row["resting"]]
    return bool(asked) and all(row["warm"] and not row["on_demand"] for row in asked)


def _by_handle(replicas: Replicas) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in replicas:
        for name in row["handles"]:
            found.setdefault(name, []).append(row)
    return found
