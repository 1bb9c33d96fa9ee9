"""What stays of a conversion: the artifact's manifest with where it came from, and the job's result."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llmctl
from llmctl.catalog import Artifact
from llmctl.errors import LlmctlError
from llmctl.files import blocks
from llmctl.models import manifest as manifests
from llmctl.models import store
from llmctl.models.convert.plan import Source
from llmctl.models.convert.request import Request
from llmctl.models.convert.steps import Made
from llmctl.models.manifest import FileEntry, Manifest


def artifact(source: Mapping[str, Any]) -> Artifact:
    """The artifact that a request's `source` speaks of."""
    return Artifact(source["format"], source.get("quantization"), source.get("source"), revision=source.get("revision"))


def entries(staged: Path) -> tuple[FileEntry, ...]:
    """What lies in `staged`; reads all of it, and has it on the disk."""
    return tuple(_entry(staged, path) for path in sorted(staged.iterdir()) if path.is_file())


def manifest(request: Request, source: Source, files: tuple[FileEntry, ...], made: Made, seconds: float) -> Manifest:
    """The manifest of `files`."""
    wanted = request.wanted
    origin = {
        "by": "convert",
        "at": manifests.now(),
        "from": _origin(source),
        "tools": {"llmctl": llmctl.__version__, "python": platform.python_version(), **made.tools},
        "parameters": {"to": wanted.to, "quantization": wanted.quantization, "pre": request.pre},
        "peak_bytes": made.peak_bytes,
        "peaks": made.peaks,
        "seconds": round(seconds, 1),
    }
    name = wanted.artifact
    return Manifest(
        request.model, name.format, name.quantization, files, None, source.artifact.revision,
        request.source.get("licence"), origin,
    )  # fmt: skip


def _origin(source: Source) -> dict[str, Any]:
    """Of what it was made: with the sha256 of each file where the source has a manifest."""
    found: dict[str, Any] = {"path": str(source.path), "format": source.artifact.format}
    found |= {"source": source.artifact.source, "revision": source.artifact.revision, "dtype": source.checkpoint.dtype}
    folder = store.folder_of(source.path)
    try:
        kept = manifests.read(folder)
    except LlmctlError:
        kept = None
    if kept:
        return {**found, "files": {entry.path: entry.sha256 for entry in kept.files}}
    return {**found, "bytes": source.checkpoint.weights_bytes}


def _entry(folder: Path, path: Path) -> FileEntry:
    """Reads the file while the system writes it out, which publishing waits for."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(1) as writer:
        written = writer.submit(os.fsync, file.fileno())
        for block in blocks(file):
            digest.update(block)
        written.result()
    stat = path.stat()
    return FileEntry(str(path.relative_to(folder)), stat.st_size, digest.hexdigest(), stat.st_mtime_ns)


def result(
    request: Request, source: Source, kept: Manifest, *, made: bool, report: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the job answers."""
    return {
        "model": request.model,
        "made": made,
        "path": str(request.folder),
        "format": kept.format,
        "quantization": kept.quantization,
        "bytes": kept.bytes,
        "from": {"path": str(source.path), "format": source.artifact.format, "bytes": source.checkpoint.weights_bytes},
        "seconds": kept.origin.get("seconds"),
        "peak_bytes": kept.origin.get("peak_bytes"),
        "quality": report,
    }
