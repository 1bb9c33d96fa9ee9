"""What a health run keeps for the next: what was seen (`--quiet`), and how each slot stands with each listener."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl import files
from llmctl.errors import LlmctlError, StateError
from llmctl.health import changes, standing
from llmctl.health.changes import Key, Run, Was
from llmctl.health.standing import Standing

LISTENERS = 100


def folder(home: Path) -> Path:
    return home / "health"


def changed(home: Path, run: Run) -> tuple[list[Key], list[LlmctlError]]:
    """Who is not as in the run before this one, which is kept as the last; and what went wrong with that."""
    path = folder(home) / "seen.json"
    rows, errors = _read(path, [])
    before: dict[Key, Was] = changes.from_rows(rows)
    return changes.new(before, run.verdicts), [
        *errors, *_write(path, changes.to_rows(changes.seen(before, run)), "the next run shows these changes again")
    ]  # fmt: skip


def listeners(home: Path) -> tuple[dict[str, dict[Key, Standing]], list[LlmctlError]]:
    """How all slots stand with each listener, by its name; and what went wrong with that."""
    found, errors = _read(folder(home) / "told.json", {})
    return {name: standing.from_rows(rows) for name, rows in found.items()}, errors


def keep_listeners(home: Path, found: Mapping[str, Mapping[Key, Standing]]) -> list[LlmctlError]:
    """Keep that, of the latest LISTENERS; what went wrong with it."""
    latest = list(found)[-LISTENERS:]
    rows = {name: changes.to_rows(found[name]) for name in latest}
    return _write(folder(home) / "told.json", rows, "who was told now will be told again")


def _read(path: Path, usual: Any) -> tuple[Any, list[LlmctlError]]:
    try:
        found = files.read_json(path)
        return (usual if found is None else found), []
    except (StateError, OSError) as error:
        with contextlib.suppress(OSError):
            os.replace(path, path.with_suffix(".bad"))
        why = error.message if isinstance(error, StateError) else f"{path} cannot be read: {error.strerror}"
        return usual, [StateError(f"{why}; health goes on as if it were its first run", hint=f"rm {path}.bad")]


def _write(path: Path, data: Any, so: str) -> list[LlmctlError]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_json(path, data)
    except OSError as error:
        hint = f"make room on that disk, or look at ls -ld {path.parent}"
        return [StateError(f"{path} cannot be written: {error.strerror}; {so}", hint=hint)]
    return []
