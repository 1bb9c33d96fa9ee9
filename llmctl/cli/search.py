"""`llmctl models search`: the catalog's models by words, and the hub's."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import Annotated, Any

import typer

from llmctl.catalog import Model
from llmctl.cli.session import Session
from llmctl.envelope import Answer

app = typer.Typer()


class Format(str, Enum):
    """The formats that a search may ask for."""

    safetensors = "safetensors"
    gguf = "gguf"
    mlx = "mlx"


@app.command()
def search(
    ctx: typer.Context,
    words: Annotated[list[str], typer.Argument(help="Words of a name, a licence, a quantization or a tier.")],
    hub: Annotated[bool, typer.Option("--hub", help="Ask the model hub (HF_ENDPOINT) too.")] = False,
    format: Annotated[Format | None, typer.Option(help="Only what there is in this format.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Repositories of the hub, the most downloaded.")] = 20,
) -> Answer:
    """Models of the catalog by words, and with --hub repositories of the hub; exit code 1 when there is none."""
    from llmctl.models import search as searching

    session: Session = ctx.obj
    text = " ".join(words)
    wanted = format.value if format else None
    models = searching.in_catalog(session.catalog, text, wanted)
    repos = searching.on_hub(text, wanted, limit) if hub else []
    data = {
        "text": text,
        "models": [_row(model) for model in models],
        "hub": [asdict(repo) for repo in repos] if hub else None,
    }
    return Answer(data, exit_code=0 if models or repos else 1)


def _row(model: Model) -> dict[str, Any]:
    kinds = [{"format": a.format, "quantization": a.quantization, "bytes": a.bytes} for a in model.artifacts]
    return {"id": model.id, "tier": model.tier, "licence": model.licence, "artifacts": kinds}
