"""`llmctl bench`: how fast a slot is, and where the time of its engine goes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from llmctl.cli import options as o
from llmctl.cli.far import on_hosts
from llmctl.cli.session import Session, Target
from llmctl.domain import READY
from llmctl.envelope import Answer
from llmctl.errors import Refused, UsageError

app = typer.Typer(help="How fast a slot answers.")

TRACED = 2  # requests of a profile: a trace of every operator grows fast
TRACED_TOKENS = 32
PATIENCE = 600.0


@app.command()
@on_hosts("target", single=True)
def run(
    ctx: typer.Context,
    target: o.Port,
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 8,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 128,
    new: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 64,
    streams: Annotated[int, typer.Option(min=1, max=256, help="How many at once.")] = 1,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Then trace the engine over two more: a file on its host, and the top ten."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --profile: also put the file into this folder of its host.")
    ] = None,
) -> Answer:
    """Measure a slot under requests of one size, from its own host; each prompt is new to it."""
    from llmctl.checks import bench as checks

    if out and not profile:
        raise UsageError("--out is where the file of --profile goes", hint="add --profile")
    session: Session = ctx.obj
    slot = session.target(target)
    http, about = _reach(session, slot)
    load = checks.Load(requests, prompt, new, min(streams, requests))
    with session.progress() as on_event:
        on_event({"event": "note", "message": f"{requests} requests, after {checks.WARM_UPS} to warm up"})
        speed = checks.run(http, load)
        found = _profile(session, slot, http, load, out) if profile else None
    data = {"host": slot.host.name, "port": slot.port, **about, "prompt": prompt, "new": new}
    return Answer({**data, "speed": speed.to_dict(), "profile": found})


def _reach(session: Session, slot: Target) -> tuple[Any, dict[str, Any]]:
    """The slot's API, and what runs there; Refused unless it is ready."""
    from llmctl import keys
    from llmctl.checks.slot_http import SlotHttp
    from llmctl.slots import verbs
    from llmctl.slots.state import SlotFolder

    row = verbs.status(session.home, [slot.port])[0]
    if row.state != READY:
        raise Refused(f"port {slot.port} is {row.state}", hint=f"llmctl status {slot.port}", port=slot.port)
    found = keys.read(session.home)
    bind = SlotFolder(session.home, slot.port).read_desired().launch.bind
    http = SlotHttp(bind, slot.port, found.client if found else None, PATIENCE)
    return http, {"model": row.model, "engine": row.engine}


def _profile(session: Session, slot: Target, http: Any, load: Any, out: Path | None) -> dict[str, Any]:
    from dataclasses import replace

    from llmctl.checks import bench as checks
    from llmctl.slots import verbs

    verbs.profile(session.home, slot.port, stop=False)
    try:
        checks.busy(http, replace(load, requests=TRACED, new=min(load.new, TRACED_TOKENS)))
    finally:
        found = verbs.profile(session.home, slot.port, stop=True)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        found["path"] = str(shutil.copy(found["path"], out.absolute()))
    return found
