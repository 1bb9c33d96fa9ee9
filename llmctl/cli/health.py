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


@app.command()
def install(
    ctx: typer.Context,
    every: Annotated[str, typer.Option(metavar="TIME", help="How often: 5m, 1h, …")] = "5m",
    service: Annotated[
        str, typer.Option(metavar="SERVICE", help="cron, systemd, systemd-system, launchd or launchd-system.")
    ] = "cron",
    heal: Annotated[bool, typer.Option("--heal", help="Let the runs restart what is down.")] = False,
    notify: Annotated[
        list[str] | None, typer.Option(metavar="TARGET", help="Whom the runs tell, as for `llmctl health`; repeatable.")
    ] = None,
) -> Answer:
    """Have `llmctl health --quiet` run again and again on this machine; asks nobody twice."""
    from llmctl.health import schedule
    from llmctl.health import settings as files
    from llmctl.health.target import choose

    session: Session = ctx.obj
    told = list(notify or ())
    targets = choose(told, files.read(session.config.dir, session.config.hosts).notify)
    words = ["health", "--quiet", *(["--heal"] if heal else []), *(f"--notify={text}" for text in told)]
    what = schedule.periodic(words, tables.seconds(every), session.home, session.config.dir)
    scheduled, changed = schedule.install(service, session.home, what, targets)
    return Answer({"scheduled": [scheduled.to_dict()], "changed": changed})


@app.command()
def uninstall(ctx: typer.Context) -> Answer:
    """End the runs that `install` began."""
    from llmctl.health import schedule

    session: Session = ctx.obj
    return Answer({"removed": schedule.uninstall(session.home)})


@app.command()
def show(ctx: typer.Context) -> Answer:
    """Show what has health run on this machine: the crontab line, the timer or the job."""
    from llmctl.health import schedule

    session: Session = ctx.obj
    return Answer({"scheduled": [one.to_dict() for one in schedule.show(session.home)]})
