"""Where in huggingface-hub's cache a path lies: `models--org--name/snapshots/<commit>/…`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository in a cache: `folder` is the repository's own, `path` the snapshot's."""

    folder: Path
    repo: str
    commit: str

    @property
    def path(self) -> Path:
        return self.folder / "snapshots" / self.commit


def snapshot_of(path: Path) -> Snapshot | None:
    """The snapshot that `path` is or lies in; a repository's own folder means the commit of its main branch."""
    for folder in (path, *path.parents):
        if not folder.name.startswith("models--") or not (folder / "snapshots").is_dir():
            continue
        parts = path.relative_to(folder).parts
        commit = parts[1] if len(parts) > 1 and parts[0] == "snapshots" else None if parts else _main(folder)
        return Snapshot(folder, "/".join(folder.name.split("--")[1:]), commit) if commit else None
    return None


def _main(folder: Path) -> str | None:
    """The commit of the main branch, else of the only snapshot."""
    try:
        commit = (folder / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        commit = ""
    names = os.listdir(folder / "snapshots")
    return commit if commit in names else names[0] if len(names) == 1 else None
