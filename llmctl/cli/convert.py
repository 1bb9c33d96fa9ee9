"""`llmctl convert`: make another format or a quantization of a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl.catalog import Model
from llmctl.cli import options as o
from llmctl.cli.far import on_hosts
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import UsageError

if TYPE_CHECKING:
    from llmctl.catalog import QualityLimit
    from llmctl.models.convert.plan import Source, Target

app = typer.Typer()


@app.command()
@on_hosts(goes_on=True)
def convert(
    ctx: typer.Context,
    model: o.Model,
    to: Annotated[str, typer.Option(help="mlx, gguf or torch.")],
    quantization: Annotated[
        str | None, typer.Option(help="4bit, mxfp4, mixed-3-6 (mlx); q4_k_m, q8_0 (gguf); int8, bf16 (torch); …")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT[/QUANT]", help="Which artifact; default: the most precise.")
    ] = None,
    max_kl: Annotated[
        float | None, typer.Option(min=0, help="The mean KL divergence that the quality gate lets pass, in nats.")
    ] = None,
    gate: Annotated[bool, typer.Option("--gate/--no-gate", help="Measure what a quantization lost.")] = True,
    pre: Annotated[
        str | None, typer.Option(help="llama.cpp's name for how the tokenizer splits a text, where none is found.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it again if it is there.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Answer at once; see `llmctl jobs`.")] = False,
    dry_run: o.DryRun = False,
) -> Answer:
    """Make another format or a quantization of a model that lies here."""
    from llmctl.models.checkpoint import trusted
    from llmctl.models.convert import plan

    session: Session = ctx.obj
    found = session.catalog.resolve(model)
    wanted = plan.target(to.lower(), quantization)
    taken = plan.choose(found.id, _sources(found, session.models_dir), wanted, source)
    trusted(taken.checkpoint, found.id, found.allow_code)
    arguments = {
        "model": found.id,
        "source": _described(taken, found),
        "to": wanted.to,
        "quantization": wanted.quantization,
        "models_dir": str(session.models_dir),
        "home": str(session.home),
        "allow_code": found.allow_code,
        "limit": _limit(session, wanted, max_kl, gate),
        "pre": pre,
        "force": force,
    }
    if dry_run:
        return Answer({"conversion": _planned(taken, wanted, arguments)})
    from llmctl.cli import work

    made = {"--to": wanted.to, "--quantization": wanted.quantization}
    given = {**made, "--from": source, "--max-kl": max_kl, "--pre": pre}
    words = [f"{option} {value}" for option, value in given.items() if value is not None]
    flags = [flag for flag, on in {"--no-gate": not gate, "--force": force}.items() if on]
    title = " ".join([found.id, *words, *flags])
    return work.run(session, "convert", arguments, title, detach, needs="compute")


def _sources(model: Model, models_dir: Path) -> list[Source]:
    from llmctl.models import store
    from llmctl.models.checkpoint import inspect
    from llmctl.models.convert.plan import Source

    here = store.present(model, models_dir)
    return [Source(artifact, inspect(path)) for artifact, path in here if artifact.format != "script"]


def _described(source: Source, model: Model) -> dict[str, Any]:
    artifact = source.artifact
    return {
        "path": str(source.path),
        "format": artifact.format,
        "quantization": artifact.quantization,
        "source": artifact.source,
        "revision": artifact.revision,
        "licence": model.licence,
    }


def _limit(session: Session, wanted: Target, max_kl: float | None, gate: bool) -> dict[str, Any] | None:
    """What the result may lose: the catalog's limit for its bits, `--max-kl` over it; None: nothing is measured."""
    from llmctl.catalog import QualityLimit
    from llmctl.models import quality

    if not gate:
        return None
    bits = quality.bits_of(wanted.quantization)
    limit: QualityLimit | None = session.catalog.quality.get(bits)
    if max_kl is not None:
        limit = QualityLimit(bits, max_kl, limit.min_top1 if limit and max_kl <= limit.max_kl else 0.0)
    if limit is None and not wanted.is_cast:
        raise UsageError(
            f"the catalog has no quality limit for {bits} bits", hint="say --max-kl X, or --no-gate to measure nothing"
        )
    return asdict(limit) if limit else None


def _planned(source: Source, wanted: Target, arguments: dict[str, Any]) -> dict[str, Any]:
    from llmctl.models import store
    from llmctl.models.cache import free_bytes
    from llmctl.models.convert import plan

    models_dir = Path(arguments["models_dir"])
    return {
        "model": arguments["model"],
        "from": str(source.path),
        "to": wanted.to,
        "quantization": wanted.quantization,
        "path": str(store.folder(arguments["model"], wanted.artifact, models_dir)),
        "bytes": plan.expected_bytes(source.checkpoint, wanted),
        "needed_bytes": plan.needed_bytes(source, wanted),
        "free_bytes": free_bytes(models_dir),
        "limit": arguments["limit"],
    }
