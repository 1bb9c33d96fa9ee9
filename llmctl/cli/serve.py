"""`llmctl serve`: one slot in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctl.cli import options as o
from llmctl.cli.changes import spec_of
from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer()


@app.command()
def serve(
    ctx: typer.Context,
    model: o.Model,
    port: Annotated[str, typer.Option(metavar="PORT", help="8101 or auto.")] = "auto",
    engine: o.Engine = "auto",
    quantization: o.Quantization = None,
    context: o.Context = None,
    parallel: o.Parallel = None,
    idle_unload: o.IdleUnload = None,
) -> Answer:
    """Serve MODEL on a port in the foreground, until Ctrl-C; nothing of it is kept."""
    from llmctl.slots import launch

    session: Session = ctx.obj
    target = session.target(port, auto=True)
    spec = spec_of(session, target, model, engine, quantization, context, parallel, idle_unload)
    return Answer(exit_code=launch.serve(session.home, target.port, spec, session.launch(target.host)))
