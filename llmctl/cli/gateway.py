"""`llmctl gateway`: one address for the whole fleet, on this machine."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from llmctl import tables
from llmctl.cli import gateway_litellm
from llmctl.cli.session import Session
from llmctl.domain import GATEWAY_PORT, OnDemand
from llmctl.envelope import Answer
from llmctl.errors import Refused, UsageError
from llmctl.gateway.limits import MONTH, PERIODS, Allowed

app = typer.Typer(help="One address for the whole fleet: requests are routed by handle.")
keys = typer.Typer(help="The keys of the gateway's clients.")
app.add_typer(keys, name="keys")
app.add_typer(gateway_litellm.app, name="render")

Port = Annotated[int, typer.Option(min=1, max=65535)]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")]


@app.command()
def up(
    ctx: typer.Context,
    port: Port = GATEWAY_PORT,
    bind: Annotated[str, typer.Option(metavar="ADDRESS", help="All but loopback asks for a key.")] = "127.0.0.1",
    require_key: Annotated[bool, typer.Option("--require-key", help="Ask for a key on loopback too.")] = False,
    told: Annotated[
        str, typer.Option(metavar="TIME", help="A stream hears after it how far its model's load is.")
    ] = "10s",
    patience: Annotated[
        str, typer.Option(metavar="TIME", help="Who does not stream is sent away after it while a model is loaded.")
    ] = "1m",
    turn: Annotated[
        str, typer.Option(metavar="TIME", help="A model goes on for it after another began to wait for its room.")
    ] = "30s",
    engine: Annotated[str, typer.Option(metavar="NAME", help="llmctl, or litellm in its place.")] = "llmctl",
    redis: gateway_litellm.Where = None,
    python: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Of an environment with a LiteLLM; else one is made.")
    ] = None,
) -> Answer:
    """Have a gateway on this machine, now and after a reboot; its handles are synced first."""
    from llmctl.cli import handles_work
    from llmctl.cli.reach import Reach
    from llmctl.gateway import life

    session: Session = ctx.obj
    times = OnDemand(tables.seconds(told), patience=tables.seconds(patience), turn=tables.seconds(turn))
    if engine == "litellm":
        return gateway_litellm.up(session, port, bind, redis, python)
    if engine != "llmctl" or redis or python:
        what = f"--engine {engine[:40]!r} is none" if engine != "llmctl" else "--redis and --python are of a LiteLLM"
        raise UsageError(what, hint="llmctl gateway up --engine litellm")
    try:
        import httptools  # noqa: F401
    except ModuleNotFoundError:
        raise Refused("the gateway needs httptools", hint="pip install 'llmctl-fleet[server]'") from None
    with Reach(session) as reach:
        made, problems, errors = handles_work.synced(reach)
    launch = replace(session.launch(session.here()), bind=bind, require_key=require_key, on_demand=times)
    started = life.up(session.home, port, launch)
    answer = handles_work.shown(made, problems, errors)
    told_bind = life.launched(session.home, port).bind
    return Answer({**answer.data, "port": port, "bind": told_bind, "started": started}, answer.exit_code, answer.errors)


@app.command()
def down(ctx: typer.Context, port: Port = GATEWAY_PORT) -> Answer:
    """End the gateway, after its requests, over reboots too; its keys stay."""
    from llmctl.gateway import life

    session: Session = ctx.obj
    life.down(session.home, port)
    return Answer({"port": port, "down": True})


@app.command()
def status(ctx: typer.Context, port: Port = GATEWAY_PORT) -> Answer:
    """How the gateway is: its handles, and each slot behind it as it sees it."""
    from llmctl.gateway import life

    session: Session = ctx.obj
    found = life.status(session.home, port)
    return Answer(found, 1 if found.get("why") else 0)


@keys.command()
def add(
    ctx: typer.Context,
    name: KeyName,
    handle: Annotated[
        list[str] | None, typer.Option("--handle", metavar="GLOB", help="Only these handles; repeatable.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="A minute.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="A minute.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="At once.")] = None,
    quota: Annotated[int | None, typer.Option(min=1, help="Tokens in a --per.")] = None,
    per: Annotated[str, typer.Option(help="day or month.")] = MONTH,
) -> Answer:
    """Make a key, and show it: this once, for only its hash is kept."""
    from llmctl.gateway import callers

    if per not in PERIODS:
        raise UsageError(f"--per {per[:40]!r} is none", hint=f"--per {' or '.join(PERIODS)}")
    session: Session = ctx.obj
    allowed = Allowed(tuple(handle or ()), requests, tokens, parallel, quota, per)
    return Answer({"name": name, "key": callers.add(session.home, name, allowed), **asdict(allowed)})


@keys.command("list")
def list_(ctx: typer.Context) -> Answer:
    """All keys, by name: what each may do, and the tokens that it has used of its day or month."""
    import datetime

    from llmctl.gateway import callers, spent

    session: Session = ctx.obj
    rows, today = spent.everywhere(session.home), datetime.date.today()
    found = callers.read(session.home).values()
    return Answer({"keys": [callers.shown(one, spent.used(rows, one.name, one.allowed, today)) for one in found]})


@keys.command()
def revoke(ctx: typer.Context, name: KeyName) -> Answer:
    """End a key: its requests are refused from now on, and those under way end within a second or two."""
    from llmctl.gateway import callers

    session: Session = ctx.obj
    return Answer({"revoked": callers.shown(callers.revoke(session.home, name))})
