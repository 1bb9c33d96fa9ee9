"""`llmctl serve`: one slot in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctl.cli import options as o
from llmctl.cli.changes import spec_of
from llmctl.cli.session import Session
from llmctl.cli.tuning import tuned
from llmctl.config import Tuning
from llmctl.envelope import Answer
from llmctl.errors import UsageError

app = typer.Typer()


@app.command()
@tuned
def serve(
    ctx: typer.Context,
    model: o.Model,
    port: Annotated[str, typer.Option(metavar="PORT", help="8101 or auto.")] = "auto",
    engine: o.Engine = "auto",
    quantization: o.Quantization = None,
    context: o.Context = None,
    parallel: o.Parallel = None,
    idle_unload: o.IdleUnload = None,
    spare: o.Spare = None,
    worker_id: Annotated[str | None, typer.Option(metavar="ID", help="With --callback-url: this worker's id.")] = None,
    callback_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Tell this URL when the model is ready, as a worker of rbee does.")
    ] = None,
    *,
    tuning: Tuning,
) -> Answer:
    """Serve MODEL on a port in the foreground, until Ctrl-C; nothing of it is kept."""
    from llmctl.slots import callback, launch

    session: Session = ctx.obj
    if (worker_id is None) != (callback_url is None):
        raise UsageError("--worker-id and --callback-url go together")
    to = callback.parse(worker_id, callback_url) if worker_id is not None and callback_url is not None else None
    target = session.target(port, auto=True)
    how = session.launch(target.host)
    if to:
        callback.check(to, how.bind, target.port)
    spec = spec_of(session, target, model, engine, quantization, context, parallel, idle_unload, spare, tuning)
    return Answer(exit_code=launch.serve(session.home, target.port, spec, how, to))
