"""What is known of one artifact that lies here: what its files say, how it came, and what the quality gate found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError
from llmctl.files import read_json
from llmctl.models import manifest as manifests
from llmctl.models import store
from llmctl.models.checkpoint import inspect
from llmctl.models.convert.gate import NAME as QUALITY


@dataclass(frozen=True)
class About:
    """`origin` is the manifest's, `quality` the gate's report as JSON; `problems` are errors of what cannot be read."""

    source: str | None = None
    revision: str | None = None
    licence: str | None = None
    bytes: int | None = None
    files: int | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] | None = None
    architecture: str | None = None
    context: int | None = None
    parameters: int | None = None
    problems: tuple[str, ...] = ()


def about(path: Path, format: str) -> About:
    """Of the artifact that is, or whose file is, at `path`."""
    folder, found, problems = store.folder_of(path), dict[str, Any](), []
    try:
        if kept := manifests.read(folder):
            found |= {name: getattr(kept, name) for name in ("source", "revision", "licence", "bytes", "origin")}
            found["files"] = len(kept.files)
    except LlmctlError as error:
        problems.append(error.message)
    try:
        found["quality"] = read_json(folder / QUALITY)
    except LlmctlError as error:
        problems.append(error.message)
    try:
        if format != "script":
            checkpoint = inspect(path)
            found |= {
                "architecture": checkpoint.architecture,
                "context": checkpoint.context or None,
                "parameters": checkpoint.parameters,
            }
    except LlmctlError as error:
        problems.append(error.message)
    return About(**found, problems=tuple(problems))
