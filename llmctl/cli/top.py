"""`llmctl top`: the fleet live on a terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llmctl import tables
from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import Refused, UsageError

app = typer.Typer()


@app.command()
def top(
    ctx: typer.Context,
    host: o.Hosts = None,
    every: Annotated[str, typer.Option(metavar="TIME", help="How often hosts look at their slots.")] = "2s",
) -> Answer:
    """Hosts and slots live, with keys to swap, load, unload and restart them and to follow their logs."""
    from llmctl.cli import watching
    from llmctl.cli.reach import Reach
    from llmctl.cli.slot_acts import SlotActs
    from llmctl.fleet import selection
    from llmctl.watch.host import LEAST, MOST

    session: Session = ctx.obj
    if session.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        hint = "llmctl status --json" if session.json else "llmctl status"
        raise UsageError("top is for a terminal, and this is none", hint=hint)
    seconds = tables.seconds(every)
    if not LEAST <= seconds <= MOST:
        raise UsageError(f"--every {every}: it must be {LEAST:g}s to {MOST:g}s", hint="--every 2s")
    hosts = selection.select(session.config, host or ())
    try:
        from llmctl.top.app import Top
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] != "textual":
            raise
        raise Refused("llmctl top needs textual", hint="pip install 'llmctl-fleet[top]'") from None
    with Reach(session) as reach, watching.watch(reach, hosts, seconds) as watch:
        Top(watch, SlotActs(reach)).run(mouse=False)
    return Answer()
