"""The text of models.toml with what an import brings behind it; what stands there already is never changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmctl import catalog_file, tables
from llmctl.catalog import Artifact, Model
from llmctl.errors import ConfigError
from llmctl.models import entry_text
from llmctl.models.registry.bringing import Brought


def new_text(own: Path, brought: Brought) -> str | None:
    """The whole new text of the models.toml `own`; None when it says all already.

    ConfigError names the line of an entry that says otherwise.
    """
    old = own.read_text(encoding="utf-8") if own.exists() else ""
    entries = catalog_file.models_in(own)
    parts = []
    for id, model in brought.models.items():
        artifacts = [artifact for of, artifact in brought.artifacts.values() if of == id]
        if id in entries:
            parts += [entry_text.artifact(id, a) for a in artifacts if not _there(own, old, entries[id], a)]
            continue
        others = [a for a in model.artifacts if a.folder not in {artifact.folder for artifact in artifacts}]
        parts.append(entry_text.entry(replace(model, artifacts=(*artifacts, *others))))
    if not parts:
        return None
    return "\n".join([old.rstrip("\n") + "\n", *parts] if old.strip() else parts)


def _there(own: Path, text: str, model: Model, artifact: Artifact) -> bool:
    """Whether the entry has this artifact; ConfigError when it has another in its place, or no place for it."""
    lines = tables.lines(text)
    table = ("models", model.id, "artifacts")
    for index, old in enumerate(model.artifacts):
        if old.folder != artifact.folder:
            continue
        if old.path == artifact.path and artifact.names[0] in old.names:
            return True
        line = lines.get((*table, index)) or lines.get(table) or lines.get(table[:2], 1)
        raise ConfigError(
            f"{own}:{line}: {model.id} has a {artifact.folder.replace('-', ' ', 1)} already, "
            f"at {old.path or 'no path'} and not {artifact.path or 'none'}, or without the name {artifact.names[0]}",
            hint=f"take it out, or make it this:\n{entry_text.artifact(model.id, artifact)}",
        )
    if model.artifacts and (*table, 0) not in lines:
        line = lines.get(table) or lines.get(table[:2], 1)
        raise ConfigError(
            f"{own}:{line}: the artifacts of {model.id} are not written as tables of their own",
            hint=f'write them as [[models."{model.id}".artifacts]], or add this one by hand',
        )
    return False
