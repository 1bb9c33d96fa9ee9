"""`llmctl host health`: one look at this host and its slots, for whoever judges them."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer()


@app.command()
def health(
    ctx: typer.Context,
    ports: Annotated[list[int] | None, typer.Argument(metavar="[PORT]...")] = None,
    timeout: Annotated[float, typer.Option(min=0.1)] = 30.0,
    since: Annotated[str, typer.Option()] = "",
    wake: Annotated[bool, typer.Option("--wake")] = False,
) -> Answer:
    """What there is: slots with an answer of each, the machine, and what has happened since."""
    return looked(ctx.obj, ports or (), timeout, since, wake)


def looked(session: Session, ports: list[int] | tuple[int, ...], timeout: float, since: str, wake: bool) -> Answer:
    """The answer of `host health`."""
    from llmctl import backends
    from llmctl.health import here

    host = session.host()
    backend, models = backends.detect() if host.backend == "auto" else host.backend, host.models(session.home)
    seen = here.look(session.home, backend, models, ports=ports, timeout=timeout, wake=wake, cursor=since)
    return Answer(seen.to_dict())
