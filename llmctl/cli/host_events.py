"""`llmctl host events`: what happened on this host, for whoever keeps the fleet's history."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer()


@app.command()
def events(ctx: typer.Context, since: Annotated[str, typer.Option(metavar="CURSOR")] = "") -> Answer:
    """The next events after a cursor, and the cursor after them."""
    session: Session = ctx.obj
    return told(session.home, since)


def told(home: Path, cursor: str) -> Answer:
    """The answer of `host events`."""
    from llmctl import events as noted

    found, after = noted.since(home, cursor)
    return Answer({"events": found, "cursor": after})
