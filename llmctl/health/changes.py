"""What has changed since the last run, for who reads along (`--quiet`): pure decisions, and rows for a state file.

A slot that is skipped says nothing: it stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llmctl.domain import build
from llmctl.health.verdict import OK, SKIPPED, UNKNOWN, Judged

Key = tuple[str, int | None]
"""A slot, or with None a host."""


@dataclass(frozen=True)
class Was:
    """What was thought of a slot, and for which reasons (the codes of its findings)."""

    verdict: str
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One run: all verdicts, after healing; a host that was asked is among them as (host, None).

    `was_down` are those that were down before they were healed in this run: why. `done` is what healing did or does
    not, in words; `gave_up` for whom it has no more to try. `hosts` are all that there are (None: not known), whether
    or not they were asked; of those in `partly` only some slots were.
    """

    at: float
    verdicts: Mapping[Key, Judged]
    was_down: Mapping[Key, str] = field(default_factory=dict)
    done: Mapping[Key, str] = field(default_factory=dict)
    gave_up: frozenset[Key] = frozenset()
    hosts: frozenset[str] | None = None
    partly: frozenset[str] = frozenset()


def new(before: Mapping[Key, Was], verdicts: Mapping[Key, Judged]) -> list[Key]:
    """Who is not as before, by verdict or reason; who was never seen and is well is nothing new."""
    return [
        key
        for key, judged in verdicts.items()
        if judged.verdict != SKIPPED and before.get(key, Was(OK)) != Was(judged.verdict, _codes(judged))
    ]


def seen(before: Mapping[Key, Was], run: Run) -> dict[Key, Was]:
    """What is to be kept for the next `new`."""
    now = {key: Was(one.verdict, _codes(one)) for key, one in run.verdicts.items() if one.verdict != SKIPPED}
    lost = set(gone(before, run))
    return {**{key: was for key, was in before.items() if key not in lost}, **now}


def gone(known: Iterable[Key], run: Run) -> list[Key]:
    """Hosts that there are no more, and slots that their host, which answered, does not have any more."""
    answered = {host for (host, port), one in run.verdicts.items() if port is None and one.verdict != UNKNOWN}
    whole = answered - run.partly
    strangers = {host for host, _ in known if run.hosts is not None and host not in run.hosts}
    return [key for key in known if key[0] in strangers or (key[0] in whole and key not in run.verdicts)]


def _codes(judged: Judged) -> tuple[str, ...]:
    return tuple(sorted(finding.code for finding in judged.findings if finding.code))


def to_rows(found: Mapping[Key, Any]) -> list[dict[str, Any]]:
    """For a state file; each value is a flat dataclass."""
    return [{"host": host, "port": port, **asdict(one)} for (host, port), one in found.items()]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[Key, Was]:
    return {(str(row["host"]), row["port"]): build(Was, row) for row in rows}
