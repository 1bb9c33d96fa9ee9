"""A health run over the fleet: look, judge, heal, look again, keep, tell."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmctl import __version__
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError
from llmctl.fleet import fanout
from llmctl.health import heal, kept, notify, rows, verdict
from llmctl.health import settings as files
from llmctl.health.book import Book
from llmctl.health.changes import Key, Run
from llmctl.health.heal import Patient, Step
from llmctl.health.rows import Row
from llmctl.health.seen import HostSeen
from llmctl.health.settings import Settings
from llmctl.health.target import Target, choose

ROUND = 60.0
"""Seconds that a host has for its look, besides the answers of its slots and a load where it wakes one."""
LOAD = 900.0


@dataclass(frozen=True)
class Wanted:
    """What a run is to do: the hosts, each with the ports that are meant (none: all), and who is told."""

    hosts: Mapping[Host, Sequence[int]]
    settings: Settings
    targets: Sequence[Target] = ()
    quiet: bool = False
    heal: bool = False
    wake: bool = False


def wanted(session: Session, words: Sequence[str], told: Sequence[str], timeout: float | None) -> Wanted:
    """What was typed, with health.toml; UsageError and ConfigError for mistakes in either."""
    settings = files.read(session.config.dir, session.config.hosts)
    settings = settings.within(timeout) if timeout is not None else settings
    return Wanted(_meant(session, words), settings, choose(told, settings.notify))


def run(session: Session, asked: Wanted) -> Answer:
    """One run. What goes wrong beside the slots (history, messages) is an error of the answer, and never its end."""
    with Book(session.home) as book, Reach(session) as reach:
        found = _look(reach, asked, book, asked.hosts)
        book.checked(found)
        steps: list[Step] = []
        now = found
        if asked.heal:
            steps = heal.steps(*_patients(found, book, asked.settings), asked.settings, time.time())
            now = _healed(reach, asked, book, found, steps)
        outcome = _as_run(session, asked, found, now, steps)
        changed, errors = kept.changed(session.home, outcome)
        told = notify.tell(session.home, asked.targets, outcome, asked.settings.messages) if asked.targets else None
        if told:
            for target, message in told.sent:
                book.told(target, message.title, outcome.at)
            for target, message, why in told.deaf:
                book.not_told(target, message.title, why, outcome.at)
            errors = [*errors, *told.errors]
        errors = [*errors, *book.errors]
        notes = [*book.notes, *(f"{step.host}:{step.port}: {step.why}" for step in steps if not step.does)]
    return _answer(now, {row.key: row for row in found}, changed, notes, errors, asked.quiet)


def _meant(session: Session, words: Sequence[str]) -> dict[Host, list[int]]:
    """The hosts that are meant, each with its ports; no words: all of them."""
    from llmctl.cli import reach

    if not words:
        return {host: [] for host in session.config.hosts.values()}
    return {host: [int(port) for port in ports] for host, ports in reach.targets(session, words).items()}


# ── looking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _look(reach: Reach, asked: Wanted, book: Book, hosts: Mapping[Host, Sequence[int]]) -> list[Row]:
    """Ask these hosts, side by side, and judge what they told."""
    cursors = {host.name: book.cursor(host.name) for host in hosts}

    def on(host: Host) -> tuple[HostSeen, float]:
        began = time.time()
        seen = _asked(reach, asked, host, hosts[host], cursors[host.name])
        return seen, (began + time.time()) / 2 if host.transport != "local" else seen.at

    found: list[Row] = []
    for outcome in fanout.over(list(hosts), on):
        name = outcome.host.name
        if outcome.value is None:
            found += _silent(outcome.host, outcome.error, book, hosts[outcome.host])
            continue
        seen, at = outcome.value
        book.take(name, seen.events, seen.cursor)
        found += rows.of_host(name, seen, at, __version__, book.figures, asked.settings)
    return found


def _asked(reach: Reach, asked: Wanted, host: Host, ports: Sequence[int], cursor: str) -> HostSeen:
    from llmctl.cli import host_health

    own = [part.timeout for (name, _), part in asked.settings.parts.items() if name == host.name]
    timeout = max([asked.settings.of(host.name).timeout, *own])  # one look at all of its slots has one
    words = ["host", "health", f"--timeout={timeout}", f"--since={cursor}", *(["--wake"] if asked.wake else [])]
    reply = reach.call(
        host, [*words, *map(str, ports)],
        lambda session: host_health.looked(session, list(ports), timeout, cursor, asked.wake),
        timeout=ROUND + 4 * timeout + (LOAD if asked.wake else 0.0), any_version=True, check="llmctl health",
    )  # fmt: skip
    return HostSeen.from_dict(reply.value())


def _silent(host: Host, error: LlmctlError | None, book: Book, ports: Sequence[int]) -> list[Row]:
    """A host that could not be asked; all that was known of it is unknown."""
    why = error.message if error else "it did not answer"
    fix = (error.hint if error else None) or f"llmctl hosts check {host.name}"
    known = [check for check in book.known(host.name) if not ports or check.port in ports]
    return rows.of_silence(host.name, why, fix, known, time.time())


# ── healing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _patients(found: Sequence[Row], book: Book, settings: Settings) -> tuple[list[Patient], list[heal.Healed] | None]:
    incidents = book.open_since()
    window = max(part.heal.window for part in (settings, *settings.parts.values()))
    opened = {key: incident.opened for key, incident in incidents.items()}
    patients = [
        Patient(row.host, row.seen, row.judged, row.there, opened.get(row.key)) for row in found if row.seen is not None
    ]
    since = min([time.time() - window, *opened.values()])
    healed = book.healed(since)
    return patients, None if book.errors else healed  # without a history there is no budget


def _healed(reach: Reach, asked: Wanted, book: Book, found: list[Row], steps: Sequence[Step]) -> list[Row]:
    """Do what is to be done, host by host side by side, and look at those slots again."""
    before = {row.key: row for row in found}
    doing: dict[Host, list[Step]] = {}
    for step in steps:
        if step.does:
            host = next(host for host in asked.hosts if host.name == step.host)
            doing.setdefault(host, []).append(step)
    if not doing:
        return found

    def on(host: Host) -> list[tuple[Step, LlmctlError | None]]:
        return [(step, _do(reach, host, step, stuck=_stuck(before[step.host, step.port]))) for step in doing[host]]

    done: dict[Key, tuple[Step, LlmctlError | None]] = {}
    for outcome in fanout.over(list(doing), on):
        for step, error in outcome.value or ():
            done[step.host, step.port] = step, error
    for key, (step, error) in done.items():
        book.did(before[key], step.action, "failed" if error else "ok", error.message if error else step.why)
    again = _look(reach, asked, book, {host: [step.port for step in doing[host]] for host in doing})
    fresh = {row.key: replace(row, healed=_words(*done[row.key])) for row in again if row.key in done}
    book.checked(list(fresh.values()))
    return [fresh.get(row.key, row) for row in found]


def _stuck(row: Row) -> bool:
    """Its engine took a request, and did nothing."""
    return any(finding.code == verdict.WEDGED for finding in row.judged.findings)


def _do(reach: Reach, host: Host, step: Step, *, stuck: bool) -> LlmctlError | None:
    """Why it did not work; None when it did."""
    from llmctl.cli import host_heal

    try:
        reach.call(
            host, ["host", "heal", f"--action={step.action}", *(["--stuck"] if stuck else []), str(step.port)],
            lambda session: host_heal.healed(session, step.port, step.action, stuck),
            timeout=LOAD, check=f"llmctl status {host.name}:{step.port}",
        ).value()  # fmt: skip
    except LlmctlError as error:
        return error
    return None


def _words(step: Step, error: LlmctlError | None) -> str:
    """What was done, for people."""
    did = f"{step.model} loaded again" if step.action == heal.LAST_GOOD else "restarted"
    return f"restart failed: {error.message}" if error else did


# ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _as_run(
    session: Session, asked: Wanted, found: Sequence[Row], now: Sequence[Row], steps: Sequence[Step]
) -> Run:  # fmt: skip
    """What is told of it: the verdicts after healing, and what was down before."""
    healed = {row.key: row.healed for row in now if row.healed}
    return Run(
        at=time.time(),
        verdicts={row.key: row.judged for row in now},
        was_down={row.key: row.judged.why for row in found if row.key in healed},
        done={**{(step.host, step.port): step.why for step in steps if not step.does}, **healed},
        gave_up=frozenset((step.host, step.port) for step in steps if step.action == heal.GIVE_UP),
        hosts=frozenset(session.config.hosts),
        partly=frozenset(host.name for host, ports in asked.hosts.items() if ports),
    )


def _answer(
    now: Sequence[Row], before: Mapping[Key, Row], changed: Sequence[Key], notes: Sequence[str],
    errors: Sequence[LlmctlError], quiet: bool,
) -> Answer:  # fmt: skip
    slots = [row.to_dict() for row in now if row.port is not None]
    hosts = [row.to_dict() for row in now if row.port is None]
    by_key = {row.key: row for row in now}
    changes = [_change(by_key[key], before[key]) for key in changed if key in by_key]
    data: dict[str, Any] = {"slots": slots, "hosts": hosts, "changes": changes, "notes": list(notes), "quiet": quiet}
    code = verdict.exit_code(row.judged.verdict for row in now if row.port is not None or _odd(row))
    return Answer(data, code, tuple(errors))


def _odd(row: Row) -> bool:
    """A host without a finding says nothing about whether anything ran."""
    return row.judged.verdict != verdict.OK


def _change(row: Row, before: Row) -> dict[str, Any]:
    was = before.judged.verdict if row.healed else None
    fix = next((finding.fix for finding in row.judged.findings if finding.fix), None)
    return {
        "host": row.host, "port": row.port, "verdict": row.judged.verdict, "was": was, "why": row.judged.why or None,
        "healed": row.healed or None, "fix": fix,
    }  # fmt: skip
