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


VIEWS: dict[str, View] = {
    "models list": _models,
    "models show": _model,
}
