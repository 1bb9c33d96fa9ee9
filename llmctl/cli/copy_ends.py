"""`llmctl host artifacts` and `host incoming`: what the hosts at both ends of a copy answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated, Any, BinaryIO

import typer

from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import Refused, UnknownName, UsageError

app = typer.Typer()
STEPS = ("plan", "take", "publish")


@app.command()
def artifacts(ctx: typer.Context, model: o.Model) -> Answer:
    """Where the artifacts of a model lie, with their manifests."""
    return Answer(artifacts_of(ctx.obj, model))


def artifacts_of(session: Session, name: str) -> dict[str, Any]:
    """The artifacts of a model on this host; Refused, with the models that are here, when there are none."""
    from llmctl.models import manifest, store

    here = session.host().name
    try:
        model = session.catalog.resolve(name)
        found = store.present(model, session.models_dir)
    except UnknownName:
        model, found = None, []
    if model is None or not found:
        known = session.catalog.models.values()
        have = ", ".join(sorted(one.id for one in known if store.present(one, session.models_dir)))
        raise Refused(f"{here} has no {name[:140]!r}", hint=f"it has {have or 'no model at all'}")
    rows = []
    for artifact, path in found:
        folder = store.folder_of(path)
        kept = manifest.read(folder)
        rows.append(
            {
                "format": artifact.format,
                "quantization": artifact.quantization,
                "folder": str(folder),
                "manifest": asdict(kept) if kept else None,
            }
        )
    return {"model": model.id, "artifacts": rows}


@app.command()
def incoming(ctx: typer.Context, step: Annotated[str, typer.Argument(metavar="|".join(STEPS))]) -> Answer:
    """A step of an artifact's arrival: its manifest comes by stdin, behind it the bytes of a file."""
    return Answer(received(ctx.obj, step, sys.stdin.buffer))


def received(session: Session, step: str, stdin: BinaryIO, alone: bool = False) -> Mapping[str, Any]:
    """One step of an artifact's arrival here. `alone`: the caller has seen to it that nobody else changes it."""
    from llmctl.models import receiving

    if step not in STEPS:
        raise UsageError(f"no step {step[:40]!r}", hint=f"one of {', '.join(STEPS)}")
    models_dir = session.host().models(session.home)
    try:
        asked = json.loads(stdin.readline())
        manifest, source, path, at = (asked.get(key) for key in ("manifest", "source", "path", "at"))
    except (ValueError, AttributeError):
        raise UsageError(f"`host incoming {step}` was not told what comes") from None
    kept = receiving.read_manifest(manifest)
    if step == "plan":
        return receiving.plan(kept, models_dir).to_dict()
    if step == "take":
        return {"have": receiving.take(kept, str(path), at, stdin, models_dir)}
    with nullcontext() if alone else receiving.alone(kept, models_dir):
        return receiving.publish(kept, str(source), models_dir)
