"""An artifact that comes from another host: its files as they come, and the moment at which it is there.

What has come of a file lies in `<models>/.staging/<sha256>.partial`, where a later try finds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from llmctl import paths
from llmctl.catalog import Artifact
from llmctl.domain import FORMATS, build
from llmctl.errors import BadCheckpoint, Busy, NoSpace, Refused, UsageError
from llmctl.files import blocks, locked
from llmctl.models import checkpoint, store
from llmctl.models import manifest as manifests
from llmctl.models.cache import free_bytes
from llmctl.models.manifest import FileEntry, Manifest

PARTIAL = ".partial"
SPARE = 2**20  # bytes for the manifest and the folder
BLOCK = 2**20


@dataclass(frozen=True)
class Plan:
    """What is to come: `have` bytes of each file, by its path, are here in the file `partial`."""

    folder: str
    already: bool
    have: Mapping[str, int]
    partial: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_manifest(data: Any) -> Manifest:
    """A manifest that another host has sent; UsageError when it is none, or names what is not within its folder."""
    try:
        kept = build(Manifest, {**data, "files": tuple(build(FileEntry, entry) for entry in data["files"])})
        sound = all(_sound(entry) for entry in kept.files) and kept.files
        named = kept.format in FORMATS and isinstance(kept.quantization, str | None)
    except (KeyError, TypeError, AttributeError):
        sound = named = False
    if not sound or not named:
        raise UsageError("what came is not the manifest of an artifact", hint="llmctl deploy the other host again")
    paths.check_name(kept.model, "model")
    if kept.quantization:
        paths.check_name(kept.quantization, "quantization")
    return kept


def plan(kept: Manifest, models_dir: Path) -> Plan:
    """What is missing here. NoSpace when it does not fit, Refused when something else lies where it would go."""
    folder = _folder(kept, models_dir)
    already = _is_here(kept, folder)
    partial = {entry.path: _partial(entry, models_dir) for entry in kept.files}
    have = {path: min(_size(partial[path]), size) for path, size in _sizes(kept).items()}
    needed = sum(_sizes(kept).values()) - sum(have.values())
    if not already and needed + SPARE > (free := free_bytes(models_dir)):
        raise NoSpace(
            f"{kept.model} needs {needed + SPARE:,} more bytes, {free:,} are free, at {models_dir}",
            hint="free space there, and pull again: what has come is kept",
            details={"needed": needed + SPARE, "free": free, "path": str(models_dir)},
        )
    (models_dir / store.STAGING).mkdir(parents=True, exist_ok=True)
    return Plan(str(folder), already, have, {path: str(file) for path, file in partial.items()})


@contextlib.contextmanager
def alone(kept: Manifest, models_dir: Path) -> Iterator[None]:
    """While nobody else changes the artifacts of this model here; Busy when somebody does."""
    with store.changing(kept.model, models_dir, wait=False):
        yield


def take(kept: Manifest, path: str, at: int, source: BinaryIO, models_dir: Path) -> int:
    """Append what comes to the file `path`, of which there must be `at` bytes; how many there are then."""
    entry = next((entry for entry in kept.files if entry.path == path), None)
    if entry is None:
        raise UsageError(f"{kept.model} has no file {path[:140]!r}")
    partial = _partial(entry, models_dir)
    with locked(partial.with_suffix(".lock"), wait=False, what=f"{path} of {kept.model}"), open(partial, "ab") as file:
        if file.tell() != at:
            raise Busy(f"{path} of {kept.model} has {file.tell()} bytes here, and not {at}: somebody else sends it too")
        while (block := source.read(BLOCK)) and file.tell() < entry.bytes:
            file.write(block[: entry.bytes - file.tell()])
        return file.tell()


def publish(kept: Manifest, source: str, models_dir: Path) -> Mapping[str, Any]:
    """Prove every file by its sha256, and let the artifact appear. `source` is the host that it came from.

    BadCheckpoint when a file is not what its manifest says; what came of that one is removed.
    """
    folder = _folder(kept, models_dir)
    if not _is_here(kept, folder):
        partial = {entry.path: _partial(entry, models_dir) for entry in kept.files}
        for entry in kept.files:
            _prove(entry, partial[entry.path], kept.model, source)
        with store.staging(models_dir) as staged:
            for path, file in partial.items():
                (staged / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(file, staged / path)
            entries = tuple(replace(e, mtime_ns=(staged / e.path).stat().st_mtime_ns) for e in kept.files)
            origin = {**kept.origin, "from": {"host": source, "at": manifests.now()}}
            checkpoint.inspect(store.content(staged, kept.format) or staged)
            manifests.write(staged, replace(kept, files=entries, origin=origin))
            store.publish(staged, folder)
        for file in partial.values():
            file.unlink(missing_ok=True)
            file.with_suffix(".lock").unlink(missing_ok=True)
    return {"model": kept.model, "format": kept.format, "quantization": kept.quantization, "path": str(folder)}


def _folder(kept: Manifest, models_dir: Path) -> Path:
    """Where it goes; Refused when something that is no such artifact lies there."""
    folder = store.folder(kept.model, Artifact(kept.format, kept.quantization), models_dir)
    if folder.exists() and manifests.read(folder) is None:
        raise Refused(f"{folder} is no artifact, and would be replaced", hint="move it away, and pull again")
    return folder


def _is_here(kept: Manifest, folder: Path) -> bool:
    here = manifests.read(folder) if folder.exists() else None
    if here is None or not all(entry.unchanged(folder) for entry in here.files):
        return False
    return {(e.path, e.sha256) for e in here.files} == {(e.path, e.sha256) for e in kept.files}


def _prove(entry: FileEntry, partial: Path, model: str, source: str) -> None:
    digest = hashlib.sha256()
    try:
        with open(partial, "rb", buffering=0) as file:
            for block in blocks(file):
                digest.update(block)
    except FileNotFoundError:
        raise BadCheckpoint(f"{entry.path} of {model} has not come", hint="pull it again") from None
    size = _size(partial)
    if size < entry.bytes:
        raise BadCheckpoint(f"{entry.path} of {model} has {size} of {entry.bytes} bytes", hint="pull it again")
    if digest.hexdigest() != entry.sha256 or size > entry.bytes:
        partial.unlink()
        raise BadCheckpoint(
            f"{entry.path} of {model} is not what {source}'s manifest says (sha256), and was removed",
            hint=f"check it there: llmctl models verify {model} --host {source}",
        )


def _partial(entry: FileEntry, models_dir: Path) -> Path:
    return models_dir / store.STAGING / f"{entry.sha256}{PARTIAL}"


def _sizes(kept: Manifest) -> dict[str, int]:
    return {entry.path: entry.bytes for entry in kept.files}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sound(entry: FileEntry) -> bool:
    """Whether it names a file within a folder, and a hash."""
    path = PurePosixPath(entry.path)
    hashed = len(entry.sha256) == 64 and set(entry.sha256) <= set("0123456789abcdef")
    within = not path.is_absolute() and ".." not in path.parts and path.name not in ("", manifests.NAME)
    return hashed and within and "\0" not in entry.path and type(entry.bytes) is int and entry.bytes >= 0
