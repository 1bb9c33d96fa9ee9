"""`llmctl health`: is everything as declared; if not, since when and why, and what to type. Made for cron."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from llmctl import tables
from llmctl.cli.default_verb import DefaultVerb
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import Busy

app = typer.Typer(cls=DefaultVerb, help="Is everything as declared, since when not and why, and what to type.")

Targets = Annotated[
    list[str] | None, typer.Argument(metavar="[HOST[:PORT]]...", help="8101, HOST:8101, HOST or @LABEL. Default: all.")
]


@app.command()
def run(
    ctx: typer.Context,
    targets: Targets = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what changed since the last run.")] = False,
    heal: Annotated[
        bool, typer.Option("--heal", help="Restart what is down, within the budget of health.toml.")
    ] = False,
    notify: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET", help="Tell changes to a [[notify]] of health.toml, all, command:…, https://…; repeatable."
        ),
    ] = None,
    wake: Annotated[bool, typer.Option("--wake", help="Start the models of sleeping slots.")] = False,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="For the answer of each slot, instead of health.toml's.")
    ] = None,
) -> Answer:
    """Ask every slot that should be up for a real answer. 0: all ok, 1: one is down, 3: degraded or unknown only."""
    from llmctl.cli import health_run
    from llmctl.files import locked

    session: Session = ctx.obj
    patience = tables.seconds(timeout) if timeout else None
    wanted = health_run.wanted(session, targets or (), notify or (), patience)
    wanted = replace(wanted, quiet=quiet, heal=heal, wake=wake)
    try:
        with locked(session.home / "health.lock", wait=False, what="health"):
            return health_run.run(session, wanted)
    except Busy:
        notes = [] if quiet else ["another health run is under way: nothing was asked"]
        return Answer({"slots": [], "hosts": [], "changes": [], "notes": notes, "quiet": quiet}, 5)
