"""How each slot stands with one listener, and what that one must be told now: pure decisions.

Main points: what is bad counts after so many runs in a row; who was told of it hears no more until it is worse, or well
for a while, so that a slot that flaps is one message; what could not be told at its time is told with the next message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmctl.domain import build
from llmctl.health.changes import Key, Run, gone
from llmctl.health.message import ENDED, PROBLEM, RANK, RECOVERY, Message, Said, compose, name_of
from llmctl.health.settings import MessageSettings
from llmctl.health.verdict import DEGRADED, DOWN, OK, SKIPPED, UNKNOWN, Judged
from llmctl.logs import clean
from llmctl.render.text import duration


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
    lost = set(gone(standings, run))
    after = {key: one for key, one in standings.items() if key not in lost}
    said: list[Said] = []
    for key, one in standings.items():
        if key in lost:
            if one.told and not one.well:
                said.append(_said(RECOVERY, key, f"{name_of(key)} {ENDED[False]}", one))
        elif due := _due(key, one, run.at, settings):
            said.append(_said(*due, one))
            after[key] = _told(one, due[0], run.at, settings)
        elif one.well and one.verdict == OK and _steady(one, run.at, settings):
            after[key] = _well(one)
    shown = [one for one in said if not _with_its_host(one.key, standings)]
    return (compose(shown, run.at) if shown else None), after


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
    return replace(one, worst=max(one.worst, verdict, key=RANK.__getitem__), why=why, fix=fix)


def _well(one: Standing) -> Standing:
    """As if nothing had been."""
    return Standing(verdict=one.verdict, runs=one.runs, since=one.since)


def _due(key: Key, one: Standing, at: float, settings: MessageSettings) -> tuple[str, Key, str] | None:
    """The kind, the slot and the line of what is to be told of one slot now."""
    if not one.worst:
        return None
    name, lasted = name_of(key), one.since - _open(one)
    if one.verdict == OK:
        if not one.told:
            done = f", {one.done}" if one.done else ""
            return RECOVERY, key, f"{name} was {one.worst}{_for(lasted)} ({one.why}){done}, and is well again"
        if one.well or not _steady(one, at, settings):
            return None
        times = f" {one.turns} times within {duration(max(0.0, lasted))}" if one.turns > 1 else _for(lasted)
        return RECOVERY, key, f"{name} is well again; it was {one.worst}{times}"
    worse, again = RANK[one.worst] > RANK[one.told], one.well and _counts(one, settings)
    reminds = settings.remind and one.told and at - one.told_at >= settings.remind
    if not (worse or again or reminds or (one.gave_up and not one.told_gave_up)):
        return None
    was = f" (was {one.worst})" if RANK[one.worst] > RANK[one.verdict] else ""
    rest = "".join(f" · {text}" for text in (one.done, one.fix) if text)
    return PROBLEM, key, f"{name} is {one.verdict}{was}{_for(at - _open(one))}: {one.why}{rest}"


def _said(kind: str, key: Key, line: str, one: Standing) -> Said:
    texts = {"why": clean(one.why), "fix": clean(one.fix), "done": clean(one.done)}
    return Said(kind, key, clean(line), one.verdict, one.worst, {**texts, "since": one.open})


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


def from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[Key, Standing]:
    """What `changes.to_rows` made of standings."""
    return {(str(row["host"]), row["port"]): build(Standing, row) for row in rows}
