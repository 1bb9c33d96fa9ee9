"""Remove artifacts, and from huggingface-hub's cache the bytes that nothing but them used.

What was imported stays where it came from: only the links to it go.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmctl.errors import LlmctlError
from llmctl.models import hf_cache, store
from llmctl.models import manifest as manifests


@dataclass(frozen=True)
class Removal:
    """What goes: folders of artifacts, blobs of the cache, and their bytes. `kept`: path → why it stays."""

    folders: tuple[Path, ...]
    blobs: tuple[Path, ...]
    bytes: int
    kept: dict[Path, str]


def plan(folders: Sequence[Path], models_dir: Path) -> Removal:
    """What removing these artifacts would free; nothing is changed."""
    used = {path for folder in artifact_folders(models_dir) if folder not in folders for path in linked(folder)}
    blobs: list[Path] = []
    kept: dict[Path, str] = {}
    for folder in folders:
        by, revision = origin(folder)
        for path in linked(folder):
            if by != "pull" or not hf_cache.is_blob(path):
                kept[path] = "llmctl did not bring it here"
            elif path in used:
                kept[path] = "another artifact uses it"
            elif set(hf_cache.links_to(path)) - {revision}:
                kept[path] = "another snapshot in the cache has it"
            elif path not in blobs:
                blobs.append(path)
    own = sum(map(own_bytes, folders))
    return Removal(tuple(folders), tuple(blobs), own + sum(blob.stat().st_size for blob in blobs), kept)


def remove(model: str, folders: Sequence[Path], models_dir: Path, check: Callable[[], None]) -> Removal:
    """Remove artifacts of `model`: each vanishes by a rename, then its bytes go. Busy during a pull of it.

    `check` raises when one of them is in use; it is asked at the last moment.
    """
    with store.changing(model, models_dir, wait=False):
        check()
        going = plan([folder for folder in folders if folder.is_dir()], models_dir)
        with store.staging(models_dir) as staged:
            for number, folder in enumerate(going.folders):
                os.rename(folder, staged / str(number))
        with contextlib.suppress(OSError):  # other artifacts of the model are left
            (models_dir / model).rmdir()
        kept, bytes = dict(going.kept), going.bytes
        for blob in going.blobs:
            size = blob.stat().st_size
            if not hf_cache.drop(blob):
                kept[blob] = "another process downloads it"
                bytes -= size
    return Removal(going.folders, tuple(blob for blob in going.blobs if blob not in kept), bytes, kept)


def artifact_folders(models_dir: Path) -> Iterator[Path]:
    """The folders of all artifacts of the store, those in quarantine too."""
    for model in (*models_dir.glob("*/"), *(models_dir / store.QUARANTINE).glob("*/")):
        if model.name not in (store.STAGING, store.QUARANTINE):
            yield from (path for path in model.glob("*/") if not path.is_symlink())


def linked(folder: Path) -> set[Path]:
    """The files elsewhere that an artifact's links lead to."""
    return {path.resolve() for path in folder.rglob("*") if path.is_symlink() and path.exists()}


def own_bytes(folder: Path) -> int:
    """The bytes in a folder that are no links."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def origin(folder: Path) -> tuple[str, str | None]:
    """How the artifact came here, and its revision; nothing when its manifest cannot be read."""
    with contextlib.suppress(LlmctlError):
        if kept := manifests.read(folder):
            return str(kept.origin.get("by")), kept.revision
    return "", None
