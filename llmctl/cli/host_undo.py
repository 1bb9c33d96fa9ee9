"""`llmctl host undo`: a slot of this host gets back what its last change put out."""

from __future__ import annotations

from dataclasses import asdict

import typer

from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer()


@app.command()
def undo(ctx: typer.Context, port: int) -> Answer:
    """Swap to what served before the last change."""
    return undone(ctx.obj, port)


def undone(session: Session, port: int) -> Answer:
    """The answer of `host undo`."""
    from llmctl.slots import verbs

    return Answer(asdict(verbs.undo(session.home, port)))
