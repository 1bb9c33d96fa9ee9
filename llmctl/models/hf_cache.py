"""Paths in huggingface-hub's cache: `models--org--name/snapshots/<commit>/<file>` links to `blobs/<etag>`."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from llmctl.errors import Busy
from llmctl.models.cache import RepoCache


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
        return Snapshot(folder, repo_of(folder), commit) if commit else None
    return None


def repo_of(folder: Path) -> str:
    """The repository whose folder in the cache this is."""
    return "/".join(folder.name.split("--")[1:])


def is_blob(path: Path) -> bool:
    """Whether it is where the cache keeps a file's bytes."""
    return path.parent.name == "blobs" and path.parent.parent.name.startswith("models--")


def links_to(blob: Path) -> dict[str, list[Path]]:
    """The links in the snapshots that lead to `blob`, by commit."""
    found: dict[str, list[Path]] = {}
    snapshots = blob.parent.parent / "snapshots"
    for path in snapshots.rglob("*"):
        if path.is_symlink() and Path(os.readlink(path)).name == blob.name:
            found.setdefault(path.relative_to(snapshots).parts[0], []).append(path)
    return found


def drop(blob: Path) -> bool:
    """Remove a blob and the links to it, then what that leaves empty; False when it is being downloaded just now."""
    folder = blob.parent.parent
    try:
        with RepoCache(folder.parent, repo_of(folder)).locked(blob.name, wait=False):
            for links in links_to(blob).values():
                for link in links:
                    link.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
    except Busy:
        return False
    prune(folder)
    return True


def prune(folder: Path) -> None:
    """Remove the empty folders of a repository, the references to snapshots that are gone, and at last itself."""
    for path in sorted((p for p in folder.rglob("*") if p.is_dir() and not p.is_symlink()), reverse=True):
        with contextlib.suppress(OSError):  # not empty
            path.rmdir()
    for ref in [p for p in (folder / "refs").rglob("*") if p.is_file()]:
        if not (folder / "snapshots" / ref.read_text().strip()).is_dir():
            ref.unlink()
    for path in (folder / "refs", folder):
        with contextlib.suppress(OSError):
            path.rmdir()


def _main(folder: Path) -> str | None:
    """The commit of the main branch, else of the only snapshot."""
    try:
        commit = (folder / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        commit = ""
    names = os.listdir(folder / "snapshots")
    return commit if commit in names else names[0] if len(names) == 1 else None
