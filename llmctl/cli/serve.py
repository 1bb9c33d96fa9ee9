"""`llmctl serve`: one slot in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctl import tables
from llmctl.cli import options as o
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
    from llmctl.slots.resolve import Wish, resolve

    session: Session = ctx.obj
    target = session.target(port, auto=True)
    idle = tables.seconds(idle_unload) if idle_unload else None
    spec = resolve(session.catalog, target.host, Wish(model, engine, quantization, context, parallel, idle))
    return Answer(exit_code=launch.serve(session.home, target.port, spec, session.launch(target.host)))
