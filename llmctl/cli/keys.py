"""`llmctl keys`: the keys of this host's slots."""

from __future__ import annotations

import typer

from llmctl.cli.far import on_hosts
from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer(help="The keys that clients send to slots which listen beyond loopback.")


@app.command()
@on_hosts()
def show(ctx: typer.Context) -> Answer:
    """The client key and the admin key; made at first use."""
    from llmctl import keys

    session: Session = ctx.obj
    return Answer(keys.show(session.home))


@app.command()
@on_hosts()
def rotate(ctx: typer.Context) -> Answer:
    """Make new keys; the old ones end at once."""
    from llmctl import keys

    session: Session = ctx.obj
    session.confirm("Clients with the old key will get 401. Make new keys?")
    return Answer(keys.rotate(session.home))
