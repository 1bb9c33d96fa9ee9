"""What has changed since the last run, for who reads along (`--quiet`) and for who is told: pure decisions.

Main points: a slot that is skipped says nothing, it stays what it was; what is bad counts after so many runs in a row;
who was told of it hears no more until it is worse, or well for a while: a slot that flaps is one message; and what
nobody could be told at its time is told with the next message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmctl.domain import build
from llmctl.health.settings import MessageSettings
from llmctl.health.verdict import DEGRADED, DOWN, OK, SKIPPED, UNKNOWN, Judged
from llmctl.render.text import duration

PROBLEM, RECOVERY = "problem", "recovery"
LINES, SLOTS = 20, 200
_RANK = {"": 0, OK: 0, DEGRADED: 1, UNKNOWN: 2, DOWN: 3}
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
    or not they were asked.
    """

    at: float
    verdicts: Mapping[Key, Judged]
    was_down: Mapping[Key, str] = field(default_factory=dict)
    done: Mapping[Key, str] = field(default_factory=dict)
    gave_up: frozenset[Key] = frozenset()
    hosts: frozenset[str] | None = None


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
class Standing:
    """How one slot stands with one listener. `open` is when it was first bad, None while it is well; `worst` what it
    came to since then for so many runs as count; `told` the worst that was told of that, and `well` that it was said
    to be well again since. `turns` counts how often it became bad."""

    verdict: str = OK
    runs: int = 0
    since: float = 0.0
    open: float | None = None
    worst: str = ""
    why: str = ""
    fix: str = ""
    done: str = ""
    turns: int = 0
    gave_up: bool = False
    told: str = ""
    told_gave_up: bool = False
    told_at: float = 0.0
    well: bool = False


# ── for --quiet ─────────────────────────────────────────────────────────────────────────────────────────────────────


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
    gone = set(_gone(before, run))
    return {**{key: was for key, was in before.items() if key not in gone}, **now}


# ── for who is told ─────────────────────────────────────────────────────────────────────────────────────────────────


def observe(standings: Mapping[Key, Standing], run: Run, settings: MessageSettings) -> dict[Key, Standing]:
    """How all stand after a run, whether or not anybody is told."""
    found = dict(standings)
    for key, judged in run.verdicts.items():
        if judged.verdict != SKIPPED:
            found[key] = _observed(found.get(key, Standing()), key, judged, run, settings)
    return found


def message(
    standings: Mapping[Key, Standing], run: Run, settings: MessageSettings
) -> tuple[Message | None, dict[Key, Standing]]:
    """What a listener must be told now, and how all stand once they were.

    `standings` are what `observe` made of this run. When the message does not get through, those are to be kept:
    then the next run tells it.
    """
    gone = set(_gone(standings, run))
    after = {key: one for key, one in standings.items() if key not in gone}
    said: list[tuple[str, Key, str]] = []
    for key, one in standings.items():
        if key in gone:
            if one.told and not one.well:
                said.append((RECOVERY, key, f"{_name(key)} is not asked for any more"))
        elif due := _due(key, one, run.at, settings):
            said.append((due[0], key, due[1]))
            after[key] = _told(one, due[0], run.at, settings)
        elif one.well and one.verdict == OK and _steady(one, run.at, settings):
            after[key] = _well(one)
    shown = [line for line in said if not _with_its_host(line[1], standings)]
    return (_message(shown, standings, run.at) if shown else None), after


def _observed(one: Standing, key: Key, judged: Judged, run: Run, settings: MessageSettings) -> Standing:
    now, fell = judged.verdict, key in run.was_down
    same = now == one.verdict and one.runs and not fell
    seen = replace(one, verdict=now, runs=one.runs + 1 if same else 1, since=one.since if same else run.at)
    if now == OK and not fell:
        return seen if one.worst else _well(seen)
    seen = replace(
        seen, turns=seen.turns + (one.verdict == OK), open=_first(seen, run.at), done=run.done.get(key, ""),
        gave_up=seen.gave_up or key in run.gave_up,
    )  # fmt: skip
    if fell and settings.down:
        seen = _worse(seen, DOWN, run.was_down[key], "")
    if _counts(seen, settings):
        seen = _worse(seen, now, judged.why, next((finding.fix for finding in judged.findings if finding.fix), ""))
    return seen


def _counts(one: Standing, settings: MessageSettings) -> bool:
    """Whether it is bad for enough runs in a row."""
    runs = {DOWN: settings.down, UNKNOWN: settings.unknown, DEGRADED: settings.degraded}.get(one.verdict, 0)
    return bool(runs) and one.runs >= runs


def _first(one: Standing, at: float) -> float:
    return at if one.open is None else one.open


def _worse(one: Standing, verdict: str, why: str, fix: str) -> Standing:
    return replace(one, worst=max(one.worst, verdict, key=_RANK.__getitem__), why=why, fix=fix)


def _well(one: Standing) -> Standing:
    """As if nothing had been."""
    return Standing(verdict=one.verdict, runs=one.runs, since=one.since)


def _due(key: Key, one: Standing, at: float, settings: MessageSettings) -> tuple[str, str] | None:
    """The kind and the line of what is to be told of one slot now."""
    if not one.worst:
        return None
    name, ago = _name(key), at - (one.open if one.open is not None else at)
    if one.verdict == OK:
        if not one.told:
            done = f", {one.done}" if one.done else ""
            return (
                RECOVERY,
                f"{name} was {one.worst}{_for(one.since - _open(one))} ({one.why}){done}, and is well again",
            )
        if one.well or not _steady(one, at, settings):
            return None
        lasted = one.since - _open(one)
        times = f" {one.turns} times within {duration(max(0.0, lasted))}" if one.turns > 1 else _for(lasted)
        return RECOVERY, f"{name} is well again; it was {one.worst}{times}"
    worse, again = _RANK[one.worst] > _RANK[one.told], one.well and _counts(one, settings)
    reminds = settings.remind and one.told and at - one.told_at >= settings.remind
    if not (worse or again or reminds or (one.gave_up and not one.told_gave_up)):
        return None
    was = f" (was {one.worst})" if _RANK[one.worst] > _RANK[one.verdict] else ""
    rest = "".join(f" · {text}" for text in (one.done, one.fix) if text)
    return PROBLEM, f"{name} is {one.verdict}{was}{_for(at - _open(one))}: {one.why}{rest}"


def _open(one: Standing) -> float:
    return one.since if one.open is None else one.open


def _for(seconds: float) -> str:
    return f" for {duration(seconds)}" if seconds >= 1 else ""


def _steady(one: Standing, at: float, settings: MessageSettings) -> bool:
    """It is as it is for a while (or the clock was set back since)."""
    return not 0 <= at - one.since < settings.steady


def _told(one: Standing, kind: str, at: float, settings: MessageSettings) -> Standing:
    if kind == RECOVERY and one.told and _steady(one, at, settings):
        return _well(one)
    return replace(one, told=one.worst, told_at=at, told_gave_up=one.gave_up, well=kind == RECOVERY)


def _with_its_host(key: Key, standings: Mapping[Key, Standing]) -> bool:
    """A slot that is unknown because its host is: the host's line tells it."""
    host = standings.get((key[0], None))
    return key[1] is not None and host is not None and standings[key].worst == host.worst == UNKNOWN


def _gone(known: Iterable[Key], run: Run) -> list[Key]:
    """Hosts that there are no more, and slots that their host, which answered, does not have any more."""
    answered = {host for (host, port), one in run.verdicts.items() if port is None and one.verdict != UNKNOWN}
    strangers = {host for host, _ in known if run.hosts is not None and host not in run.hosts}
    return [key for key in known if key[0] in strangers or (key[0] in answered and key not in run.verdicts)]


def _codes(judged: Judged) -> tuple[str, ...]:
    return tuple(sorted(finding.code for finding in judged.findings))


def _name(key: Key) -> str:
    return key[0] if key[1] is None else f"{key[0]}:{key[1]}"


def _message(said: list[tuple[str, Key, str]], standings: Mapping[Key, Standing], at: float) -> Message:
    """One message of all lines, problems and the worst of them first."""
    said.sort(key=lambda one: (one[0] != PROBLEM, -_RANK[standings[one[1]].worst], one[1][0], one[1][1] or 0))
    kind = said[0][0]
    mine = [key for what, key, _ in said if what == kind]
    lines = [line for _, _, line in said]
    if len(lines) > LINES:
        lines[LINES:] = [f"and {len(lines) - LINES} more: llmctl health"]
    title = f"{_name(mine[0])} {_now(kind, standings[mine[0]])}" if len(mine) == 1 else _counted(kind, mine, standings)
    slots = tuple(_slot(key, standings[key], what) for what, key, _ in said[:SLOTS])
    return Message(kind, title, tuple(lines), slots, at)


def _now(kind: str, one: Standing) -> str:
    return (
        f"is {one.verdict}"
        if kind == PROBLEM
        else "is well again"
        if one.verdict == OK
        else "is not asked for any more"
    )


def _counted(kind: str, keys: list[Key], standings: Mapping[Key, Standing]) -> str:
    """ "2 slots are down, 1 host is unknown"."""
    if kind == RECOVERY:
        return f"{len(keys)} are well again"
    counts: dict[tuple[str, str], int] = {}
    for key in keys:
        what = (standings[key].verdict, "host" if key[1] is None else "slot")
        counts[what] = counts.get(what, 0) + 1
    return ", ".join(f"{n} {what}{'s are' if n > 1 else ' is'} {now}" for (now, what), n in counts.items())


def _slot(key: Key, one: Standing, kind: str) -> dict[str, Any]:
    return {
        "host": key[0], "port": key[1], "kind": kind, "verdict": one.verdict, "worst": one.worst, "why": one.why,
        "fix": one.fix, "done": one.done, "since": one.open,
    }  # fmt: skip


# ── as JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def to_rows(found: Mapping[Key, Was] | Mapping[Key, Standing]) -> list[dict[str, Any]]:
    """For a state file."""
    return [{"host": host, "port": port, **asdict(one)} for (host, port), one in found.items()]


def was_from(rows: Iterable[Mapping[str, Any]]) -> dict[Key, Was]:
    return {(str(row["host"]), row["port"]): build(Was, row) for row in rows}


def standings_from(rows: Iterable[Mapping[str, Any]]) -> dict[Key, Standing]:
    return {(str(row["host"]), row["port"]): build(Standing, row) for row in rows}
