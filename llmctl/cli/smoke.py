"""`llmctl smoke` and `debug-inference`: proof that a slot, or a model on a host, works."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llmctl import tables
from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer()

Timeout = Annotated[str, typer.Option(metavar="TIME", help="For each request, and for a change that is under way.")]


@app.command()
def smoke(
    ctx: typer.Context,
    ports: o.Ports = None,
    timeout: Timeout = "60s",
    wake: Annotated[bool, typer.Option("--wake", help="Start the models of sleeping slots.")] = False,
) -> Answer:
    """Prove by generated tokens that slots work. Without PORT: all that should be up."""
    from llmctl.checks import smoke as checks

    session: Session = ctx.obj
    host, seconds = session.host(), tables.seconds(timeout)
    meant = [session.target(port).port for port in ports or ()] or checks.wanted(session.home)
    rows = [row for port in meant for row in checks.smoke(session.home, host.name, port, timeout=seconds, wake=wake)]
    data = {"rows": [asdict(row) for row in rows], "slots": checks.subjects(session.home, host.name, meant)}
    return Answer(data, checks.exit_code(rows))
