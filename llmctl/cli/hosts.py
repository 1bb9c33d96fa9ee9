"""`llmctl hosts`: the machines, what they are, and which keys of theirs are trusted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from llmctl.cli import options as o
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import KeyChanged, KeyUnknown, Unreachable, UsageError
from llmctl.fleet import fanout, selection
from llmctl.fleet.facts import cache as facts_cache
from llmctl.fleet.facts import gathering
from llmctl.fleet.facts.cache import Seen
from llmctl.fleet.facts.findings import findings
from llmctl.fleet.facts.outlook import outlook, value
from llmctl.fleet.fanout import Outcome

app = typer.Typer(help="The machines of the fleet.")

OK, FINDING, UNREACHABLE, FAILED = "ok", "finding", "unreachable", "failed"


@app.command("list")
def list_hosts(ctx: typer.Context, hosts: o.HostNames = None) -> Answer:
    """All hosts, as they were last seen; asks none of them."""
    session: Session = ctx.obj
    return Answer({"hosts": [_row(session, host) for host in selection.select(session.config, hosts or ())]})


@app.command()
def show(
    ctx: typer.Context,
    host: o.HostName,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the host now.")] = False,
) -> Answer:
    """All that is known of one host, and what a deploy would take there and why."""
    session: Session = ctx.obj
    found = session.config.host(host)
    if refresh:
        with Reach(session) as reach:
            _look(reach, found)
    return Answer({"hosts": [_row(session, found)]})


@app.command()
def check(ctx: typer.Context, hosts: o.HostNames = None) -> Answer:
    """Reach the hosts, read what they are, and say what is wrong with them."""
    session: Session = ctx.obj
    meant = selection.select(session.config, hosts or ())
    with Reach(session) as reach:
        outcomes = fanout.over(meant, lambda host: _look(reach, host))
    rows = [_verdict(session, outcome) for outcome in outcomes]
    errors = tuple(outcome.error for outcome in outcomes if outcome.error)
    return Answer({"hosts": rows}, _exit_code([row["verdict"] for row in rows]), errors)


# ── what is known of a host ─────────────────────────────────────────────────────────────────────────────────────────


def _look(reach: Reach, host: Host) -> Seen:
    """Ask a host for its facts, and keep them."""
    return facts_cache.write(reach.session.home, host, gathering.gather(reach.transport(host)))


def _row(session: Session, host: Host) -> dict[str, Any]:
    """What hosts.toml and the last look say; backend, service and Python are what a deploy would take."""
    seen = facts_cache.read(session.home, host)
    decisions = outlook(host, seen.facts) if seen else []
    return {
        "host": host.name,
        "transport": host.transport,
        "address": host.address,
        "labels": list(host.labels),
        "images": [*([str(host.image_folder)] if host.image_folder else ()), *host.image_urls],
        "default": session.config.default_host == host.name,
        "backend": value(decisions, "backend"),
        "service": value(decisions, "service"),
        "python": value(decisions, "python"),
        "llmctl": seen.facts.version if seen else None,
        "seen": seen.at if seen else None,
        "age": seen.age(time.time()) if seen else None,
        "facts": seen.facts.to_dict() if seen else None,
        "choices": [asdict(decision) for decision in decisions],
    }


def _verdict(session: Session, outcome: Outcome[Seen]) -> dict[str, Any]:
    """One row of `check`: the row of `list`, what came of reaching it, and what was found."""
    error = outcome.error
    found = findings(outcome.host, outcome.value.facts) if outcome.value else []
    verdict = FINDING if any(finding.bad for finding in found) else OK
    if error:
        verdict = UNREACHABLE if isinstance(error, Unreachable) else FAILED
    unasked = outcome.host.transport == "local" or isinstance(error, Unreachable | UsageError)
    return {
        **_row(session, outcome.host),
        "verdict": verdict,
        "trusted": False if isinstance(error, KeyUnknown | KeyChanged) else None if unasked else True,
        "findings": [asdict(finding) for finding in found],
        "error": {"code": error.code, "message": error.message, "hint": error.hint} if error else None,
    }


def _exit_code(verdicts: Sequence[str]) -> int:
    """0 all ok · 3 some · 4 nothing reached · 1 otherwise."""
    if all(verdict == OK for verdict in verdicts):
        return 0
    if OK in verdicts or (UNREACHABLE in verdicts and set(verdicts) != {UNREACHABLE}):
        return 3
    return 4 if UNREACHABLE in verdicts else 1
