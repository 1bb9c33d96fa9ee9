"""`llmctl models rm`, `gc` and `import`: what lies in the store of this host."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llmctl.catalog import Model
from llmctl.cli import options as o
from llmctl.cli.far import on_hosts
from llmctl.cli.foreground import Foreground
from llmctl.cli.models import app
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import Refused
from llmctl.models import store
from llmctl.slots.admission import gb

Format = Annotated[str | None, typer.Option(help="safetensors, gguf or mlx; default: all.")]


@app.command()
@on_hosts()
def rm(
    ctx: typer.Context,
    model: o.Model,
    format: Format = None,
    quantization: o.Quantization = None,
    dry_run: o.DryRun = False,
) -> Answer:
    """Remove a model's artifacts, and the bytes that only they used. Refused while a slot uses one."""
    from llmctl.models import removing

    session: Session = ctx.obj
    found = session.catalog.resolve(model)
    folders = _chosen(session, found, format, quantization)

    def check() -> None:
        _refuse_used(session, found, folders)

    check()
    going = removing.plan(folders, session.models_dir)
    if not dry_run:
        names = ", ".join(folder.name for folder in folders)
        session.confirm(f"Remove {found.id} ({names}) and free {gb(going.bytes)}?")
        going = removing.remove(found.id, folders, session.models_dir, check)
    return Answer(
        {
            "model": found.id,
            "removed": not dry_run,
            "folders": [str(path) for path in going.folders],
            "blobs": [str(path) for path in going.blobs],
            "bytes": going.bytes,
            "kept": {str(path): why for path, why in going.kept.items()},
        }
    )


@app.command()
@on_hosts()
def gc(
    ctx: typer.Context,
    dry_run: o.DryRun = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Also what failed its quality gate; else it is only listed.")
    ] = False,
) -> Answer:
    """Remove what nothing needs: dead staging, partial downloads, superseded snapshots. Never what a model uses."""
    from huggingface_hub import constants

    from llmctl.models import leftovers
    from llmctl.slots import uses

    session: Session = ctx.obj
    used = [path for paths in uses.used(session.home).values() for path in paths]
    used += [a.path for model in session.catalog.models.values() for a in model.artifacts if a.path]
    found = leftovers.find(session.models_dir, Path(constants.HF_HUB_CACHE), used)
    going = [one for one in found if quarantine or one.kind != leftovers.QUARANTINED]
    if going and not dry_run:
        session.confirm(f"Remove {len(going)} leftovers and free {gb(sum(one.bytes for one in going))}?")
        going = leftovers.clear(going, session.models_dir, used)
    return Answer(
        {
            "removed": not dry_run,
            "leftovers": [{**_leftover(one), "gone": one in going and not dry_run} for one in found],
            "bytes": sum(one.bytes for one in going),
        }
    )


@app.command("import")
@on_hosts()
def import_model(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model's folder, or a .gguf file.")],
    name: Annotated[str | None, typer.Option("--as", metavar="ID", help="The model that it is.")] = None,
) -> Answer:
    """Make a model that lies on this host already an artifact, by links: no byte is copied, each is hashed once."""
    from llmctl.models import importing

    session: Session = ctx.obj
    with session.progress() as on_event:
        job = Foreground(on_event)
        made = importing.import_model(path, session.models_dir, session.catalog, job, name=name)
    return Answer(asdict(made))


def _chosen(session: Session, model: Model, format: str | None, quantization: str | None) -> list[Path]:
    """The folders of the artifacts in the store that are meant."""
    found, outside = [], []
    for artifact, path in store.present(model, session.models_dir):
        wanted = {"format": format, "quantization": quantization}
        if any(word and word.casefold() != getattr(artifact, name) for name, word in wanted.items()):
            continue
        folder = store.folder_of(path)
        if artifact.path is None:
            found.append(folder)
        else:
            outside.append(str(path))
    if not found and outside:
        raise Refused(
            f"{model.id} lies outside of llmctl's store ({', '.join(outside)}), and is not removed by it",
            hint="take its entry out of models.toml, and remove the files yourself",
        )
    if not found:
        raise Refused(f"{model.id} has no such artifact here", hint=f"llmctl models show {model.id}")
    return found


def _refuse_used(session: Session, model: Model, folders: list[Path]) -> None:
    """Refused when a slot uses one of them."""
    from llmctl.slots import uses

    ports = uses.used(session.home)
    for folder in folders:
        uses.refuse(f"{model.id} ({folder.name})", folder, ports)


def _leftover(one: Any) -> dict[str, Any]:
    return {"kind": one.kind, "path": str(one.path), "bytes": one.bytes}
