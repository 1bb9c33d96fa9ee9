"""A quality run and its place in history: what it is held against, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmctl.cli.quality_places import Asked
from llmctl.cli.session import Session
from llmctl.errors import HistoryError
from llmctl.history import NAME
from llmctl.history.store import History
from llmctl.quality import asking, compare
from llmctl.quality.prompts import Prompt
from llmctl.quality.run import Row, median, run

KIND = "quality"
KEPT = ("prompt", "status", "hits", "tries", "first", "seconds")
"""Of each row, in history."""
WORSE = {"regressed": "got worse", "faults": "must not fail"}


def measure(
    asked: Asked, meant: Sequence[Prompt], patience: float, tell: Callable[[str], None], until_fault: bool = False
) -> dict[str, Any]:
    """Ask everything, or `until_fault`; Unreachable, or the server's own error, where it cannot be asked at all."""
    handle = asking.Handle(asked.place, asked.model, patience)
    handle.reach()
    began = time.time()
    rows, model = run(handle, meant, lambda message: tell(f"{asked.name}: {message}"), until_fault)
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
    return {
        **found, "rows": [{**asdict(row), "status": verdict.status(row.prompt)} for row in rows], **asdict(verdict),
        "first": median(row.first for row in rows), "seconds": median(row.seconds for row in rows), "accepted": accept,
        "good": not verdict.faults and (accept or not verdict.regressed),
        "baseline": {"at": before[0], **before[1]} if before else None,
    }  # fmt: skip


def _note(history: History, data: Mapping[str, Any]) -> None:
    """The run as an event: what passed, and which checks failed; never what was asked or answered."""
    whole = ("target", "lasted", "first", "failed", "regressed", "faults", "accepted")
    rows = [{**{key: row[key] for key in KEPT}, "failed": list(row["failed"])} for row in data["rows"]]
    worse = [f"{word}: {', '.join(data[key])}" for key, word in WORSE.items() if data[key]]
    what = "; ".join([f"{data['target']}: {len(data['passed'])} of {len(rows)} passed", *worse])
    history.note(
        data["host"], KIND, port=data["port"], model=data["model"], outcome="ok" if data["good"] else "failed",
        what=what, details={**{key: data[key] for key in whole}, "rows": rows}, at=data["at"],
    )  # fmt: skip
