"""Smoke: every check of every slot that should be up, and the truth about what was found."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl import keys
from llmctl.checks import machine
from llmctl.checks.slot_checks import CHECKS, FAIL, HEARING, PASS, SKIP, WRITING, Subject, Verdict
from llmctl.checks.slot_http import SlotHttp
from llmctl.domain import DISABLED, EMPTY, GATEWAY, READY, SLEEPING, STARTING, SWAPPING
from llmctl.errors import LlmctlError
from llmctl.slots import verbs
from llmctl.slots.state import Desired, SlotFolder

UNDER_WAY = (STARTING, SWAPPING)
EVERY = 0.2
UP = "up"
NOTHING_RAN = 5


@dataclass(frozen=True)
class Row:
    """One check of one slot: `status` is pass, fail or skip."""

    host: str
    port: int
    check: str
    status: str
    why: str
    seconds: float


def wanted(home: Path) -> list[int]:
    """The ports that should be up: those with a model desired."""
    return [slot.port for slot in verbs.status(home) if slot.model and slot.engine != GATEWAY]


def smoke(home: Path, host: str, port: int, *, timeout: float, wake: bool = False) -> list[Row]:
    """All checks of one slot; `timeout` bounds each request, in seconds, and a change of the slot that is under way."""
    rows = []

    def note(check: str, verdict: Verdict, seconds: float = 0.0) -> None:
        rows.append(Row(host, port, check, verdict.status, verdict.why, round(seconds, 3)))

    folder = SlotFolder(home, port)
    try:
        state = _settled(home, port, timeout)
        desired = folder.read_desired()
        if state.engine == GATEWAY:
            note(UP, Verdict(SKIP, "the gateway has no model of its own; llmctl health asks through it"))
            return rows
        if (why := _not_up(state, wake)) or desired.spec is None:
            note(UP, why or Verdict(FAIL, "a model is loaded that is not desired"))
            return rows
        found = keys.read(home)
    except LlmctlError as error:
        note(UP, Verdict(FAIL, error.message))
        return rows
    patience = timeout + (desired.spec.load_timeout if state.state == SLEEPING else 0)
    http = SlotHttp(desired.launch.bind, port, found.client if found else None, patience)
    subject = Subject(desired.spec, desired.launch.backend, http, lambda: verbs.status(home, [port])[0])
    for name in CHECKS:
        began = time.monotonic()
        note(name, _checked(name, subject), time.monotonic() - began)
        http.timeout = timeout
    return rows


def _checked(name: str, slot: Subject) -> Verdict:
    if name in WRITING and not slot.writes():
        return Verdict(SKIP, f"{slot.spec.model} makes no text")
    if name in HEARING and not slot.heard:
        return Verdict(SKIP, "there is no sane answer to compare with")
    try:
        return CHECKS[name](slot)
    except LlmctlError as error:
        return Verdict(FAIL, error.message)


def _settled(home: Path, port: int, timeout: float) -> verbs.SlotStatus:
    """The slot's state when what is under way is over, or `timeout` seconds later."""
    end = time.monotonic() + timeout
    while (state := verbs.status(home, [port])[0]).state in UNDER_WAY and time.monotonic() < end:
        time.sleep(EVERY)
    return state


def _not_up(slot: verbs.SlotStatus, wake: bool) -> Verdict | None:
    """Why there is nothing to ask: a finding, unless the slot is down on purpose."""
    if slot.state == READY or (slot.state == SLEEPING and wake):
        return None
    if slot.state == SLEEPING:
        return Verdict(SKIP, "asleep; --wake starts its model")
    why = f": {slot.why}" if slot.why else ""
    if slot.state == DISABLED:
        return Verdict(SKIP, f"disabled{why}")
    if slot.state == EMPTY:
        return Verdict(SKIP, "no model is loaded")
    return Verdict(FAIL, f"{slot.state}{why}")


def exit_code(rows: Iterable[Mapping[str, Any]]) -> int:
    """Of rows as JSON. 0 every slot that was tried is well · 1 none is · 3 some are · 5 none was tried."""
    by_slot: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        by_slot.setdefault((row["host"], row["port"]), set()).add(row["status"])
    bad = sum(FAIL in found for found in by_slot.values())
    good = sum(FAIL not in found and PASS in found for found in by_slot.values())
    return 3 if bad and good else 1 if bad else 0 if good else NOTHING_RAN


def subjects(home: Path, host: str, ports: Sequence[int]) -> list[dict[str, object]]:
    """What runs on these ports, as a proof names it: model, engine, chip and versions."""
    return [_subject(SlotFolder(home, port), verbs.status(home, [port])[0], host) for port in ports]


def _subject(folder: SlotFolder, row: verbs.SlotStatus, host: str) -> dict[str, object]:
    try:
        desired = folder.read_desired()
    except LlmctlError:
        desired = Desired()
    if desired.spec is None:
        return {"host": host, "port": folder.port, "model": None}
    engine, backend = desired.spec.engine, desired.launch.backend
    return {
        "host": host, "port": folder.port, "model": engine.model, "engine": engine.engine, "format": engine.format,
        "context": engine.context, "parallel": engine.parallel, "backend": backend, "chip": machine.chip(backend),
        "versions": machine.versions(engine.engine, row.pid),
    }  # fmt: skip
