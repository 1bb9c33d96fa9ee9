"""`llmctl history`: what happened on the hosts and slots, how long they were up, and how fast they answered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl import tables
from llmctl.cli import options as o
from llmctl.cli.default_verb import DefaultVerb
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import UnknownName, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from llmctl.cli.reach import Reach
    from llmctl.fleet.fanout import Outcome
    from llmctl.history.store import Check, History

    Meant = Callable[[str, int | None], bool]

app = typer.Typer(cls=DefaultVerb, help="What happened on hosts and slots, how long they were up, and how fast.")

BUCKETS = 24

Slots = Annotated[
    list[str] | None, typer.Option("--slot", metavar="[HOST:]PORT", help="Only of this slot; repeatable.")
]


class Form(str, Enum):
    """Of an export."""

    csv = "csv"
    jsonl = "jsonl"


@app.command()
def show(
    ctx: typer.Context,
    slot: Slots = None,
    host: o.Hosts = None,
    since: Annotated[str, typer.Option(metavar="TIME", help="How far back: 24h, 7d, …")] = "24h",
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Only events of this kind; repeatable.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=100_000, help="Events to show, the newest.")] = 50,
    sync: Annotated[bool, typer.Option("--sync", help="First ask the hosts for what happened there.")] = False,
) -> Answer:
    """Uptime and speed of each slot, incidents, and events, the newest last."""
    from llmctl.fleet import fanout, selection
    from llmctl.history import NAME
    from llmctl.history.store import History

    session: Session = ctx.obj
    until = time.time()
    after, kinds = max(0.0, until - tables.seconds(since)), _kinds(kind or ())
    meant = _meant(session, slot or (), host or ())
    with History.open(session.home / NAME, write=sync) as history:
        outcomes = synced(session, history, selection.select(session.config, host or ())) if sync else []
        data = _found(history, after, until, kinds, meant, most)
        data["synced"] = {outcome.host.name: outcome.value for outcome in outcomes if outcome.error is None}
        data["notes"] += [history.said] if history.said else []
    errors = tuple(outcome.error for outcome in outcomes if outcome.error)
    return Answer(data, fanout.exit_code(outcomes), errors)


@app.command()
def export(
    ctx: typer.Context,
    form: Annotated[Form, typer.Option("--format", help="Of the rows.")] = Form.jsonl,
    slot: Slots = None,
    host: o.Hosts = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="How far back: 24h, 7d, … Default: all.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there, instead of to the output.")] = None,
) -> Answer:
    """Every check, event and incident as a row, times in UTC."""
    from llmctl.files import private, write_text
    from llmctl.history import NAME
    from llmctl.history import export as rows
    from llmctl.history.store import History

    session: Session = ctx.obj
    after = time.time() - tables.seconds(since) if since else 0.0
    meant = _meant(session, slot or (), host or ())
    if out is None and not session.json:
        return Answer(stream=_stream(session.home / NAME, after, meant, form.value))
    with History.open(session.home / NAME, write=False) as history:
        found = list(rows.rows(history, after, meant))
    if out is None:
        return Answer({"rows": found})
    write_text(out, "".join(rows.as_text(found, form.value)), private)
    return Answer({"out": str(out), "count": len(found)})


def synced(session: Session, history: History, hosts: Sequence[Host]) -> list[Outcome[int]]:
    """Take what happened on the hosts since they were asked last; the number of new events of each."""
    from llmctl.cli.reach import Reach
    from llmctl.fleet import fanout

    with Reach(session) as reach:

        def on(host: Host) -> int:
            new = 0
            while True:
                said = _next_events(reach, host, history.cursor(host.name))
                found = said.get("events") or ()
                new += history.take(host.name, found, str(said.get("cursor") or ""))
                if not found:
                    return new

        return fanout.over(hosts, on)


def _next_events(reach: Reach, host: Host, cursor: str) -> Mapping[str, Any]:
    from llmctl.cli import host_events
    from llmctl.cli.reach import LOOK

    def here(session: Session) -> Answer:
        return host_events.told(session.home, cursor)

    words = ["host", "events", f"--since={cursor}"]
    return reach.call(host, words, here, any_version=True, timeout=LOOK).value()


def _found(
    history: History, since: float, until: float, kinds: Sequence[str], meant: Meant, most: int
) -> dict[str, Any]:  # fmt: skip
    last = history.last()
    shown = [check for check in last.values() if check.port and check.at >= since and meant(check.host, check.port)]
    slots = [_slot(history, check, since, until) for check in sorted(shown, key=_place)]
    incidents = [asdict(one) for one in history.incidents(since=since) if meant(one.host, one.port)]
    events = [asdict(one) for one in history.events(since=since, kinds=kinds, most=-1) if meant(one.host, one.port)]
    return {
        "since": since, "until": until, "slots": slots,
        "incidents": incidents if not kinds or "incident" in kinds else [], "events": events[-most:],
        "notes": [] if last or events else ["nothing is kept yet: llmctl health keeps what it finds"],
    }  # fmt: skip


def _place(check: Check) -> tuple[str, int]:
    return check.host, check.port or 0


def _slot(history: History, check: Check, since: float, until: float) -> dict[str, Any]:
    host, port = check.host, check.port
    return {
        "host": host, "port": port, "model": check.model, "verdict": check.verdict,
        "uptime": history.uptime(host, port, since, until), **asdict(history.percentiles(host, port, since)),
        "series": {
            what: history.series(host, port, what, since, BUCKETS, until) for what in ("first", "rate")
        },
    }  # fmt: skip


def _stream(path: Path, since: float, meant: Meant, form: str) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl.history import export as rows
    from llmctl.history.store import History

    with History.open(path, write=False) as history:
        yield from rows.as_text(rows.rows(history, since, meant), form)
    return {}


def _kinds(typed: Sequence[str]) -> list[str]:
    from llmctl.events import KINDS

    for kind in typed:
        if kind not in KINDS:
            close = nearest(kind, KINDS)
            hint = f"did you mean {close!r}?" if close else f"kinds: {', '.join(KINDS)}"
            raise UnknownName(f"no kind of event is {kind[:140]!r}", hint=hint)
    return list(typed)


def _meant(session: Session, slots: Sequence[str], patterns: Sequence[str]) -> Meant:
    """Whether a host and port are among those that were typed; slots that are gone have a history too."""
    from llmctl.cli.reach import split
    from llmctl.fleet import selection

    if slots and patterns:
        raise UsageError("--slot names its host, and --host does too", hint="leave one of them out")
    typed = [split(text) for text in slots]
    if any(port == "auto" for _, port in typed):
        raise UsageError("auto is no port that has a history", hint="type 8101 or HOST:8101")
    wanted = [(host, int(port)) for host, port in typed]
    names = {host.name for host in selection.select(session.config, patterns)} if patterns else set()

    def meant(host: str, port: int | None) -> bool:
        if wanted:
            return (host, port) in wanted or (None, port) in wanted
        return not names or host in names

    return meant
