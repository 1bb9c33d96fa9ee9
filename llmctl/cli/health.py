"""`llmctl health`: is everything as declared; if not, since when and why, and what to type. Made for cron."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl import __version__, tables
from llmctl.cli.default_verb import DefaultVerb
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import Busy, HistoryError, LlmctlError

if TYPE_CHECKING:
    from llmctl.cli.reach import Reach
    from llmctl.health.rows import Row
    from llmctl.health.settings import Settings
    from llmctl.history.store import History

app = typer.Typer(cls=DefaultVerb, help="Is everything as declared, since when not and why, and what to type.")

ROUND = 60.0
"""Seconds that a host has for its look, besides the answers of its slots."""

Targets = Annotated[
    list[str] | None, typer.Argument(metavar="[HOST[:PORT]]...", help="8101, HOST:8101, HOST or @LABEL. Default: all.")
]


@app.command()
def run(
    ctx: typer.Context,
    targets: Targets = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what changed since the last run.")] = False,
    heal: Annotated[bool, typer.Option("--heal", help="Restart what is down, within the budget of health.toml.")] = False,
    notify: Annotated[
        list[str] | None,
        typer.Option(metavar="TARGET", help="Tell changes to command:PATH, https://URL or apprise:VARIABLE; repeatable."),
    ] = None,
    wake: Annotated[bool, typer.Option("--wake", help="Start the models of sleeping slots.")] = False,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="For the answer of each slot. Default: that of health.toml.")
    ] = None,
) -> Answer:
    """Ask every slot that should be up for a real answer; 0 all ok, 1 one is down, 3 degraded or unknown only."""
    from llmctl.files import locked
    from llmctl.health import settings as files

    session: Session = ctx.obj
    settings = files.read(session.config.dir)
    settings = replace(settings, timeout=tables.seconds(timeout)) if timeout else settings
    try:
        lock = locked(session.home / "health.lock", wait=False, what="health")
        with lock:
            return _run(session, _meant(session, targets or ()), settings, heal, notify or (), wake, quiet)
    except Busy:
        return Answer({"slots": [], "hosts": [], "changes": [], "notes": ["another health run is under way"]}, 5)
