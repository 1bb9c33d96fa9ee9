"""`llmctl models`: what the catalog knows, and what of it lies on this host."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from llmctl.catalog import Artifact, Model
from llmctl.cli import options as o
from llmctl.cli.far import on_hosts
from llmctl.cli.session import Session
from llmctl.cli.tuning import tuned
from llmctl.config import Tuning
from llmctl.envelope import Answer
from llmctl.models import store

app = typer.Typer(help="The models of the catalog.")


@app.command("list")
@on_hosts(rows="models", reads=True)
def list_models(ctx: typer.Context) -> Answer:
    """All models, and which artifacts lie here."""
    session: Session = ctx.obj
    return Answer({"models": [_row(model, session) for model in session.catalog.models.values()]})


@app.command()
@on_hosts(reads=True)
def show(ctx: typer.Context, model: o.Model) -> Answer:
    """One model: what the catalog says, and of each artifact here how it came and what its files say."""
    from llmctl.models.about import about

    session: Session = ctx.obj
    found = session.catalog.resolve(model)
    row = _row(found, session)
    here = {str(path): about(path, artifact.format) for artifact, path in _present(found, session)}
    data = {
        **row,
        **asdict(found.traits()),
        "tier": found.tier,
        "parameters": found.parameters,
        "probe": asdict(found.probe),
        "allow_code": found.allow_code,
        "env": dict(found.env),
        "sources": [artifact.source for artifact in _artifacts(found, session)],
        "local": [asdict(here[a["path"]]) if a["path"] else None for a in row["artifacts"]],
    }
    return Answer(data)


@app.command()
@on_hosts(rows="fits", reads=True)
@tuned
def fit(
    ctx: typer.Context,
    model: o.Model,
    context: o.Context = None,
    parallel: o.Parallel = None,
    quantization: o.Quantization = None,
    engine: o.Engine = "auto",
    *,
    tuning: Tuning,
) -> Answer:
    """Tell, before anything is loaded, whether it fits: bytes by part, engine, largest context. 1: it fits nowhere."""
    from llmctl.slots import fits, resolve

    session: Session = ctx.obj
    found = session.catalog.resolve(model)
    question = fits.Question(
        found, session.catalog, context, parallel or resolve.DEFAULT_PARALLEL, quantization, engine, **tuning.tuning()
    )
    rows = fits.fits(question, [session.host()], session.home)
    data = {"model": found.id, "fits": [row.to_dict() for row in rows]}
    return Answer(data, exit_code=0 if any(row.fits for row in rows) else 1)


def _present(model: Model, session: Session) -> list[tuple[Artifact, Path]]:
    return store.present(model, session.host().models(session.home))


def _artifacts(model: Model, session: Session) -> list[Artifact]:
    """The catalog's, then those that were made or brought here."""
    here = [artifact for artifact, _ in _present(model, session)]
    return [*model.artifacts, *(artifact for artifact in here if artifact not in model.artifacts)]


def _row(model: Model, session: Session) -> dict[str, Any]:
    """The shape of decisions.md; `path` is None where the artifact is not here."""
    here = dict(_present(model, session))
    return {
        "id": model.id,
        "aliases": list(model.aliases),
        "tier": model.tier,
        "present": bool(here),
        "artifacts": [
            {
                "format": artifact.format,
                "quantization": artifact.quantization,
                "path": str(here[artifact]) if artifact in here else None,
                "bytes": artifact.bytes,
            }
            for artifact in _artifacts(model, session)
        ],
    }
