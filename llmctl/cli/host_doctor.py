"""`llmctl host doctor`: what a host sees of itself, for the `llmctl doctor` of whoever asks."""

from __future__ import annotations

import typer

from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer()


@app.command()
def doctor(ctx: typer.Context) -> Answer:
    """What only a program on this host can see: release, units, ports, memory, heat."""
    return looked(ctx.obj)


def looked(session: Session) -> Answer:
    """The answer of `host doctor`."""
    from llmctl.doctor.look import inside

    return Answer(inside(session.home, session.host()).to_dict())
