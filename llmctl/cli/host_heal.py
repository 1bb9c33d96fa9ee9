"""`llmctl host heal`: what a health run does to a slot of this host that is down."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer()


@app.command()
def heal(
    ctx: typer.Context,
    port: int,
    action: Annotated[str, typer.Option()],
    stuck: Annotated[bool, typer.Option("--stuck")] = False,
) -> Answer:
    """Restart the slot, or bring back the model that served before; an engine that is stuck is not waited for."""
    return healed(ctx.obj, port, action, stuck)


def healed(session: Session, port: int, action: str, stuck: bool) -> Answer:
    """The answer of `host heal`."""
    from llmctl.health.heal import LAST_GOOD
    from llmctl.slots import verbs

    if action == LAST_GOOD:
        return Answer(asdict(verbs.back(session.home, port, stuck=stuck)))
    return Answer(asdict(verbs.restart(session.home, port, stuck=stuck, service=session.host().service)))
