"""What an artifact on this host is made of: manifest.json beside its files, with a sha256 for each of them.

A file whose size and modification time are as recorded counts as unchanged without being read (`unchanged`); only
reading it proves it (`llmctl.models.verify`).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmctl.domain import build
from llmctl.errors import StateError
from llmctl.files import read_json, write_json

NAME = "manifest.json"


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact: its path within, its bytes, their sha256, and its modification time in ns."""

    path: str
    bytes: int
    sha256: str
    mtime_ns: int

    def unchanged(self, folder: Path) -> bool:
        """Whether the file in `folder` still has this size and modification time."""
        try:
            stat = os.stat(folder / self.path)
        except OSError:
            return False
        return stat.st_size == self.bytes and stat.st_mtime_ns == self.mtime_ns

    def damage(self, folder: Path) -> str | None:
        """Why it cannot be the file it was: it is missing, or of another size; None when it may be."""
        try:
            size = os.stat(folder / self.path).st_size
        except OSError:
            return f"{self.path} is missing"
        return None if size == self.bytes else f"{self.path} has {size} bytes instead of {self.bytes}"


@dataclass(frozen=True)
class Manifest:
    """One artifact. `source` is `org/repo[:file]` at the commit `revision`, or None.

    `origin` is how it came here: {"by": "pull" | "convert" | "import", "at": ISO time, …}; a conversion adds its
    source's path and revision, the tools' versions and the parameters.
    """

    model: str
    format: str
    quantization: str | None
    files: tuple[FileEntry, ...]
    source: str | None = None
    revision: str | None = None
    licence: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)


def now() -> str:
    """The time for an `origin`."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def write(folder: Path, manifest: Manifest) -> None:
    """Keep `manifest` as manifest.json of `folder`."""
    write_json(folder / NAME, asdict(manifest))


def read(folder: Path) -> Manifest | None:
    """The manifest of `folder`; None when it has none, StateError when it cannot be trusted."""
    data = read_json(folder / NAME)
    if data is None:
        return None
    try:
        entries = tuple(build(FileEntry, entry) for entry in data["files"])
        return build(Manifest, {**data, "files": entries})
    except (KeyError, TypeError) as error:
        raise StateError(f"{folder / NAME} is not a manifest: {error!r}", hint="llmctl pull the model again") from error
