"""What `quality` and `swap --require-quality` share: whom they ask, the run, and its place in history."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from llmctl import keys
from llmctl.cli import chat_partner
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session, Target
from llmctl.clients.openai import Place, at
from llmctl.errors import HistoryError, LlmctlError, Refused, UnknownName, Unreachable, nearest
from llmctl.gateway import life
from llmctl.history import NAME
from llmctl.history.store import History
from llmctl.quality import asking, compare, prompts
from llmctl.quality.prompts import Prompt
from llmctl.quality.run import Row, run
from llmctl.slots.state import SlotFolder

KIND = "quality"
KEPT = ("prompt", "status", "hits", "tries", "first", "seconds")
WORSE = {"regressed": "got worse", "faults": "must not fail"}


@dataclass(frozen=True)
class Asked:
    """Who is measured: `name` is what its baseline is kept by, `through` the server that is asked, as people say it."""

    name: str
    through: str
    host: str
    port: int
    place: Place
    model: str | None


def chosen(session: Session, file: Path | None, only: Sequence[str]) -> list[Prompt]:
    """The prompts that are meant; UsageError for a name that means none."""
    import fnmatch

    own = file or (session.config.dir / prompts.NAME if session.config.dir else None)
    known = prompts.load(own if own and (file or own.exists()) else None)
    found: dict[str, Prompt] = {}
    for glob in only:
        meant = fnmatch.filter(known, glob)
        if not meant:
            close = nearest(glob, known)
            raise UnknownName(
                f"no prompt is {glob[:140]!r}", hint=f"did you mean {close!r}?" if close else "llmctl quality --list"
            )
        found |= {name: known[name] for name in meant}
    return list((found if only else known).values())


# ── whom to ask ─────────────────────────────────────────────────────────────────────────────────────────────────────


def find(reach: Reach, text: str) -> Asked:
    """The handle that a word means: at the gateway of this machine where one runs and has it, else at its slot."""
    if text.rpartition(":")[2].isdigit():
        return of_slot(reach, chat_partner.find(reach, text))
    handles = _handles(reach.session)
    for name in (text, text.lower().replace(".", "-")):
        if name in handles:
            return _at_the_gateway(reach.session, name)
    try:
        found = of_slot(reach, chat_partner.find(reach, text))
    except Refused:
        if not handles:
            raise
        close = nearest(text, handles)
        hint = f"did you mean {close!r}?" if close else f"handles: {', '.join(handles[:8])}"
        raise UnknownName(f"there is no handle {text[:140]!r}, and no slot serves it", hint=hint) from None
    with contextlib.suppress(LlmctlError):  # a handle, or a model that another host has
        text = reach.session.catalog.resolve(text).id
    return replace(found, name=text, model=text)


def of_slot(reach: Reach, target: Target) -> Asked:
    """A slot by itself, whatever its handles are."""
    place = chat_partner.place_of(reach, target)
    if place.find_key:  # for another host that is a question over ssh
        place = replace(place, find_key=functools.cache(place.find_key))
    name = f"{target.host.name}:{target.port}"
    return Asked(name, f"the slot {name}", target.host.name, target.port, place, None)


def _handles(session: Session) -> list[str]:
    """Those of the gateway here; none where none runs."""
    try:
        return list(life.status(session.home, life.PORT).get("handles") or ())
    except Unreachable:
        return []


def _at_the_gateway(session: Session, name: str) -> Asked:
    bind = SlotFolder(session.home, life.PORT).read_desired().launch.bind
    place = replace(at(bind, life.PORT, os.environ.get("LLMCTL_KEY") or None), find_key=keys.current)
    return Asked(name, f"the gateway on port {life.PORT}", session.here().name, life.PORT, place, name)


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(asked: Asked, meant: Sequence[Prompt], patience: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Ask everything; Unreachable, or the server's own error, where it cannot be asked at all."""
    handle = asking.Handle(asked.place, asked.model, patience)
    handle.reach()
    began = time.time()
    rows, model = run(handle, meant, lambda message: tell(f"{asked.name}: {message}"))
    return {
        "target": asked.name, "through": asked.through, "host": asked.host, "port": asked.port, "model": model,
        "at": began, "lasted": round(time.time() - began, 1), "rows": rows,
    }  # fmt: skip


def judge(
    session: Session, found: Mapping[str, Any], *, accept: bool = False, besides: Sequence[str] = ()
) -> tuple[dict[str, Any], HistoryError | None]:  # fmt: skip
    """Hold a run against its baseline (and those of the names `besides`), and keep it: the data of the answer, and why
    history did not take it. A run that is good moves the baseline on, one that is not leaves it, unless accepted."""
    rows: Sequence[Row] = found["rows"]
    before: tuple[float, dict[str, Any]] | None = None
    try:
        with History.open(session.home / NAME) as history:
            before = history.baseline(found["target"])
            known = [before, *(history.baseline(name) for name in besides)]
            expected = {name: of for one in reversed(known) if one for name, of in _expected(one).items()}
            verdict = compare.judged(rows, expected)
            data = _data(found, verdict, next(filter(None, known), None), accept)
            if verdict.good or accept:
                now = compare.expected_now(rows, _expected(before) if before else {}, accept=accept)
                figures = {key: data[key] for key in ("first", "seconds", "model")}
                history.keep_baseline(found["target"], found["at"], {"expected": now, **figures})
            _note(history, data)
    except HistoryError as error:
        return {**_data(found, compare.judged(rows, {}), None, False), "kept": False}, error
    return {**data, "kept": True}, None


def _expected(baseline: tuple[float, Mapping[str, Any]]) -> Mapping[str, str]:
    found = baseline[1].get("expected")
    return found if isinstance(found, Mapping) else {}


def _data(
    found: Mapping[str, Any], verdict: compare.Verdict, before: tuple[float, dict[str, Any]] | None, accept: bool
) -> dict[str, Any]:  # fmt: skip
    rows: Sequence[Row] = found["rows"]
    statuses = {
        **dict.fromkeys(verdict.passed, "pass"), **dict.fromkeys(verdict.failed, "fail"),
        **dict.fromkeys(verdict.regressed, "regressed"), **dict.fromkeys(verdict.faults, "fault"),
    }  # fmt: skip
    firsts, all_of = ([row.first for row in rows], [row.seconds for row in rows])
    return {
        **found, "rows": [{**asdict(row), "status": statuses[row.prompt]} for row in rows], **asdict(verdict),
        "first": _median(firsts), "seconds": _median(all_of), "accepted": accept,
        "good": not verdict.faults and (accept or not verdict.regressed),
        "baseline": {"at": before[0], **before[1]} if before else None,
    }  # fmt: skip


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else None


def _note(history: History, data: Mapping[str, Any]) -> None:
    """The run as an event: what passed, and which checks failed; never what was asked or answered."""
    kept = ("target", "lasted", "first", "failed", "regressed", "faults", "accepted")
    rows = [
        {
            **{key: row[key] for key in ("prompt", "status", "hits", "tries", "first", "seconds")},
            "failed": list(row["failed"]),
        }
        for row in data["rows"]
    ]
    worse = [f"{word}: {', '.join(data[key])}" for key, word in WORSE.items() if data[key]]
    what = "; ".join([f"{data['target']}: {len(data['passed'])} of {len(rows)} passed", *worse])
    history.note(
        data["host"], KIND, port=data["port"], model=data["model"], outcome="ok" if data["good"] else "failed",
        what=what, details={**{key: data[key] for key in kept}, "rows": rows}, at=data["at"],
    )  # fmt: skip
