"""`llmctl gateway`: one address for the whole fleet, on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import Refused

app = typer.Typer(help="One address for the whole fleet: requests are routed by handle.")
keys = typer.Typer(help="The keys of the gateway's clients.")
app.add_typer(keys, name="keys")

Port = Annotated[int, typer.Option(min=1, max=65535)]
PORT = 8090


@app.command()
def up(
    ctx: typer.Context,
    port: Port = PORT,
    bind: Annotated[str, typer.Option(metavar="ADDRESS", help="All but loopback asks for a key.")] = "127.0.0.1",
    require_key: Annotated[bool, typer.Option("--require-key", help="Ask for a key on loopback too.")] = False,
) -> Answer:
    """Have a gateway on this machine, now and after a reboot; its handles are synced first."""
    from llmctl.cli import handles_work
    from llmctl.cli.reach import Reach
    from llmctl.gateway import life

    session: Session = ctx.obj
    try:
        import httptools  # noqa: F401
    except ModuleNotFoundError:
        raise Refused("the gateway needs httptools", hint="pip install 'llmctl-fleet[server]'") from None
    with Reach(session) as reach:
        made, problems, errors = handles_work.synced(reach)
    launch = replace(session.launch(session.here()), bind=bind, require_key=require_key)
    started = life.up(session.home, port, launch)
    answer = handles_work.shown(made, problems, errors)
    return Answer({**answer.data, "port": port, "bind": bind, "started": started}, answer.exit_code, answer.errors)


@app.command()
def down(ctx: typer.Context, port: Port = PORT) -> Answer:
    """End the gateway, after its requests, over reboots too; its keys stay."""
    from llmctl.gateway import life

    session: Session = ctx.obj
    life.down(session.home, port)
    return Answer({"port": port, "down": True})


@app.command()
def status(ctx: typer.Context, port: Port = PORT) -> Answer:
    """How the gateway is: its handles, and each slot behind it as it sees it."""
    from llmctl.gateway import life

    session: Session = ctx.obj
    found = life.status(session.home, port)
    return Answer(found, 1 if found.get("why") else 0)
