"""`llmctl models`: what the catalog knows, and what of it lies on this host."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from llmctl.catalog import Model
from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.models import store

app = typer.Typer(help="The models of the catalog.")


@app.command("list")
def list_models(ctx: typer.Context) -> Answer:
    """All models, and which artifacts lie here."""
    session: Session = ctx.obj
    return Answer({"models": [_row(model, session) for model in session.catalog.models.values()]})


@app.command()
def show(ctx: typer.Context, model: o.Model) -> Answer:
    """One model: its artifacts, probe and licence, and what its files say."""
    from llmctl.models.checkpoint import inspect

    session: Session = ctx.obj
    found = session.catalog.resolve(model)
    here = {str(path): inspect(path) for artifact, path in _present(found, session) if artifact.format != "script"}
    data = {
        **_row(found, session),
        "context": found.context,
        "licence": found.licence,
        "parameters": found.parameters,
        "probe": asdict(found.probe),
        "allow_code": found.allow_code,
        "sources": [artifact.source for artifact in found.artifacts],
        "architectures": {path: checkpoint.architecture for path, checkpoint in here.items()},
    }
    return Answer(data)


@app.command()
def fit(
    ctx: typer.Context,
    model: o.Model,
    context: o.Context = None,
    parallel: o.Parallel = None,
    quantization: o.Quantization = None,
    engine: o.Engine = "auto",
) -> Answer:
    """Tell, before anything is loaded, whether it fits: bytes by part, engine, largest context. 1: it fits nowhere."""
    from llmctl.slots import fits, resolve

    session: Session = ctx.obj
    hosts = [host for host in session.config.hosts.values() if host.transport == "local"] or [session.host()]
    found = session.catalog.resolve(model)
    question = fits.Question(found, context, parallel or resolve.DEFAULT_PARALLEL, quantization, engine)
    rows = fits.fits(question, hosts, session.home)
    data = {"model": found.id, "fits": [row.to_dict() for row in rows]}
    return Answer(data, exit_code=0 if any(row.fits for row in rows) else 1)


def _present(model: Model, session: Session) -> list[Any]:
    return store.present(model, session.host().models(session.home))


def _row(model: Model, session: Session) -> dict[str, Any]:
    """The shape of decisions.md; `path` is None where the artifact is not here."""
    here = dict(_present(model, session))
    return {
        "id": model.id,
        "aliases": list(model.aliases),
        "present": bool(here),
        "artifacts": [
            {
                "format": artifact.format,
                "quantization": artifact.quantization,
                "path": str(here[artifact]) if artifact in here else None,
                "bytes": artifact.bytes,
            }
            for artifact in model.artifacts
        ],
    }
