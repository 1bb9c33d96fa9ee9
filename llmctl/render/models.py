"""What `llmctl models` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import Table, View, size


def _models(data: Mapping[str, Any]) -> Table:
    rows = []
    for model in data["models"]:
        kinds = [_kind(artifact) for artifact in model["artifacts"]]
        here = [_kind(artifact) for artifact in model["artifacts"] if artifact["path"]]
        rows.append((model["id"], ", ".join(here) or "-", ", ".join(kinds)))
    return Table(("MODEL", "HERE", "ARTIFACTS"), rows)


def _kind(artifact: Mapping[str, Any]) -> str:
    return f"{artifact['format']} {artifact['quantization'] or ''}".strip()


def _model(data: Mapping[str, Any]) -> str:
    lines = [data["id"]]
    for key in ("aliases", "context", "parameters", "licence"):
        value = data[key]
        if value:
            lines.append(f"  {key:<11} {', '.join(value) if isinstance(value, list) else value}")
    probe = data["probe"]
    expected = f" → {probe['expect']}" if probe["expect"] else ""
    lines.append(f"  {'probe':<11} {probe['prompt']}{expected}")
    for artifact, source in zip(data["artifacts"], data["sources"], strict=True):
        place = artifact["path"] or f"not here; {source or 'made by scripts/tiny-models'}"
        architecture = data["architectures"].get(artifact["path"])
        about = [size(artifact["bytes"])] if artifact["bytes"] else []
        about += [architecture] if architecture else []
        lines.append(f"  {_kind(artifact)}: {' · '.join([place, *about])}")
    return "\n".join(lines)


def _fits(data: Mapping[str, Any]) -> str:
    return "\n\n".join(_fit(row) for row in data["fits"])


def _fit(row: Mapping[str, Any]) -> str:
    what = f"{row['host']}  {_kind(row)}  {row['engine'] or 'no engine'}"
    lines = [f"{what}: {_verdict(row)}"]
    if row["total"] is not None:
        parts = ((name, row[name]) for name in ("weights", "kv", "compute", "process"))
        bytes = " + ".join(f"{name} {size(value) if value is not None else '?'}" for name, value in parts)
        lines.append(f"  needs     {size(row['total'])} = {bytes}")
        lines.append(
            f"  room      free {size(row['free'])}, budget {size(row['budget'])}, reserved {size(row['reserved'])}"
        )
    if row["basis"] == "catalog":
        lines.append("  not here  an estimate by the catalog's figures")
    if row["why"]:
        lines.append(f"  why       {row['why']}")
    if row["why_not"]:
        lines.append("  why not   " + "\n            ".join(f"{name}: {why}" for name, why in row["why_not"].items()))
    return "\n".join(lines)


def _verdict(row: Mapping[str, Any]) -> str:
    if row["problem"]:
        return str(row["problem"])
    asked = f"{row['context']} tokens × {row['parallel']}: " if row["kv"] is not None else "its weights alone: "
    largest = row["largest_context"]
    if row["verdict"] == "fits":
        return f"{asked}fits" + (f", up to {largest} tokens × {row['parallel']} would" if largest else "")
    less = f", --context {largest} fits" if row["verdict"] == "less context" else ""
    return f"{asked}does not fit, short by {size(row['short'])}{less}"


VIEWS: dict[str, View] = {
    "models fit": _fits,
    "models list": _models,
    "models show": _model,
}
