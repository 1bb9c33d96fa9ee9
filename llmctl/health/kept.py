"""What a health run keeps for the next: what was seen (`--quiet`), and how each slot stands with each listener."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llmctl import files
from llmctl.errors import LlmctlError, StateError
from llmctl.health import changes, standing
from llmctl.health.changes import Key, Run, Was
from llmctl.health.standing import Standing

LISTENERS = 100
T = TypeVar("T")


def folder(home: Path) -> Path:
    return home / "health"


def changed(home: Path, run: Run) -> tuple[list[Key], list[LlmctlError]]:
    """Who is not as in the run before this one, which is kept as the last; and what went wrong with that."""
    path = folder(home) / "seen.json"
    found, errors = _read(path, changes.from_rows)
    before: dict[Key, Was] = found or {}
    rows = changes.to_rows(changes.seen(before, run))
    errors += _write(path, rows, "the next run shows these changes again")
    return changes.new(before, run.verdicts), errors


def listeners(home: Path) -> tuple[dict[str, dict[Key, Standing]], list[LlmctlError]]:
    """How all slots stand with each listener, by its name; and what went wrong with that."""

    def parse(data: Mapping[str, Any]) -> dict[str, dict[Key, Standing]]:
        return {name: standing.from_rows(rows) for name, rows in data.items()}

    found, errors = _read(folder(home) / "told.json", parse)
    return found or {}, errors


def keep_listeners(home: Path, found: Mapping[str, Mapping[Key, Standing]]) -> list[LlmctlError]:
    """Keep that, of the latest LISTENERS; what went wrong with it."""
    latest = list(found)[-LISTENERS:]
    rows = {name: changes.to_rows(found[name]) for name in latest}
    return _write(folder(home) / "told.json", rows, "who was told now will be told again")


def _read(path: Path, parse: Callable[[Any], T]) -> tuple[T | None, list[LlmctlError]]:
    """What is in a file, None without one; one that cannot be read is put aside."""
    try:
        data = files.read_json(path)
        return (None if data is None else parse(data)), []
    except StateError as error:
        why = error.message
    except OSError as error:
        why = f"{path} cannot be read: {error.strerror}"
    except (KeyError, TypeError, AttributeError, ValueError):
        why = f"{path} holds something else"
    with contextlib.suppress(OSError):
        os.replace(path, path.with_suffix(".bad"))
    return None, [StateError(f"{why}; health goes on as if it were its first run", hint=f"ls -l {path}*")]


def _write(path: Path, data: Any, so: str) -> list[LlmctlError]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_json(path, data)
    except OSError as error:
        hint = f"make room on that disk, or look at ls -ld {path.parent}"
        return [StateError(f"{path} cannot be written: {error.strerror}; {so}", hint=hint)]
    return []
