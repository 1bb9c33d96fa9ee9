"""Bring a model to this host: list, select, look before any weights come, fetch into the cache, publish the artifact.

The artifact's folder holds links into huggingface-hub's cache and the manifest. It appears whole, by a rename.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmctl.catalog import Artifact
from llmctl.errors import BadCheckpoint, Busy, HubError, LlmctlError, NoSpace, Refused
from llmctl.jobs.context import Context
from llmctl.models import checkpoint, preflight, selection, store
from llmctl.models import manifest as manifests
from llmctl.models.cache import RepoCache, free_bytes
from llmctl.models.choice import PREFERENCE, READS
from llmctl.models.download import NO_ROOM, Download, Fetched, check_room
from llmctl.models.hub import Hub, Listing, RepoFile
from llmctl.models.hub_errors import Patience
from llmctl.models.manifest import FileEntry, Manifest
from llmctl.models.preflight import Examined, Read
from llmctl.models.wanted import AUTO, Wanted

MANIFEST_ROOM = 2**20  # bytes; a manifest of a thousand files has 200 kB, and its backup as much
BRIEF = Patience(tries=2, longest=0)  # for a question that can be left open
LASTING = Patience(tries=8, connects=8)  # in the middle of a long download, an outage of a minute is waited for
AWAY = ("unreachable", "hub_down", "rate_limited")  # the hub cannot be asked now


@dataclass(frozen=True)
class Plan:
    """What a pull will do. `folder` is where the artifact will lie; `away`: the hub was not there, the cache lists."""

    wanted: Wanted
    listing: Listing
    examined: Examined
    folder: Path
    away: bool = False

    @property
    def files(self) -> tuple[RepoFile, ...]:
        return self.examined.selection.files

    @property
    def cache(self) -> RepoCache:
        return cache_of(self.wanted)

    def to_dict(self) -> dict[str, Any]:
        """For `--dry-run`: sizes in bytes."""
        cache, chosen = self.cache, self.examined.selection
        return {
            **self._named(),
            "path": str(self.folder),
            "cache": str(cache.root),
            "bytes": chosen.bytes,
            "to_fetch": sum(cache.missing_bytes(file) for file in self.files),
            "free": free_bytes(cache.folder),
            "architecture": self.examined.checkpoint.architecture,
            "engines": dict(self.examined.engines),
            "files": [{"path": f.path, "bytes": f.bytes, "to_fetch": cache.missing_bytes(f)} for f in self.files],
        }

    def _named(self) -> dict[str, Any]:
        chosen = self.examined.selection
        return {
            "model": self.wanted.model,
            "format": chosen.format,
            "quantization": chosen.quantization,
            "source": self.wanted.source,
            "revision": self.listing.commit,
            "licence": self.listing.licence,
        }


def run(arguments: Mapping[str, Any], job: Context) -> Mapping[str, Any]:
    """Pull what `arguments` (a Wanted) ask for; the artifact as JSON, `received` bytes of it from the hub."""
    wanted = Wanted.from_dict(arguments)
    try:
        with _alone(wanted, job):
            kept = settled(wanted, job)
            return kept if kept else _pull(wanted, job)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = free_bytes(Path(wanted.models_dir))
        raise NoSpace(
            f"{free:,} bytes are free at {wanted.models_dir}, too few for the links and the manifest of {wanted.model}",
            hint="free space there, and pull again: what has come is kept",
            details={"needed": MANIFEST_ROOM, "free": free, "path": wanted.models_dir},
        ) from error


def settled(wanted: Wanted, job: Context) -> Mapping[str, Any] | None:
    """The artifact as JSON when it is here, unchanged and of the revision asked for; None when it is to be pulled.

    Sizes and times are compared, nothing is hashed. A hub that cannot be asked is taken to have nothing new.
    """
    for folder, kept in _artifacts(wanted):
        if not _meant(wanted, kept) or not all(entry.unchanged(folder) for entry in kept.files):
            continue
        try:
            if Hub(wanted.endpoint, BRIEF).commit(wanted.repo, wanted.revision) != kept.revision:
                return None
        except LlmctlError as error:
            if error.code not in AWAY:
                raise
            job.note(f"{error.message}: what is here is {str(kept.revision)[:12]}")
        return _result(kept, folder, received=0, already=True)
    return None


def plan(wanted: Wanted, job: Context) -> Plan:
    """Look at the repository without fetching weights; an LlmctlError when the pull would be in vain."""
    hub, cache = Hub(wanted.endpoint, Patience(note=job.note)), cache_of(wanted)
    job.progress("looking")
    try:
        listing = hub.listing(wanted.repo, wanted.revision)
        # Not from the cache, whose bytes are not proven yet: what is damaged there is to be healed, not refused.
        return _plan(wanted, listing, lambda *part: hub.read(wanted.repo, listing.commit, *part))
    except LlmctlError as error:
        kept = cache.listing(wanted.revision) if error.code in AWAY else None
        if kept is None:
            raise
        job.note(f"{error.message}: {kept.commit[:12]} is taken as it lies in the cache")
        with contextlib.suppress(BadCheckpoint, HubError):  # it is not all there
            return replace(_plan(wanted, kept, cache.read), away=True)
        raise


def cache_of(wanted: Wanted) -> RepoCache:
    """The cache of the repository that is wanted."""
    return RepoCache(Path(wanted.cache), wanted.repo)


def _plan(wanted: Wanted, listing: Listing, read: Read) -> Plan:
    format = _format(wanted, listing)
    chosen = selection.select(
        listing, format, file=wanted.file, quantization=wanted.quantization, code=wanted.allow_code
    )
    examined = preflight.examine(wanted.repo, chosen, read, wanted.backend, wanted.allow_code)
    chosen = examined.selection
    artifact = Artifact(chosen.format, chosen.quantization)
    folder = store.folder(wanted.model, artifact, Path(wanted.models_dir))
    _check_target(folder, wanted)
    return Plan(wanted, listing, examined, folder)


def _format(wanted: Wanted, listing: Listing) -> str:
    """The format asked for, else the one of the repository's that this backend's engines like best."""
    if wanted.format != AUTO:
        return wanted.format
    there = selection.formats(listing)
    liked = (format for engine in PREFERENCE[wanted.backend] for format in READS[engine])
    return next((format for format in liked if format in there), there[0] if there else "safetensors")


def _check_target(folder: Path, wanted: Wanted) -> None:
    """Refused when something else than a pull of this has made what lies there."""
    if not folder.exists():
        return
    kept = manifests.read(folder)
    made = kept.origin.get("by", "something else") if kept else "something else"
    if made != "pull":
        raise Refused(
            f"{folder} was made by {made}, and a pull would replace it",
            hint=f"llmctl models rm {wanted.model}, or move it away, and pull again",
        )


@contextlib.contextmanager
def _alone(wanted: Wanted, job: Context) -> Iterator[None]:
    """While nobody else changes the artifacts of this model here."""
    models_dir = Path(wanted.models_dir)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(store.changing(wanted.model, models_dir, wait=False))
        except Busy:
            job.note(f"waiting: another command changes {wanted.model}")
            stack.enter_context(store.changing(wanted.model, models_dir))
        yield


def _pull(wanted: Wanted, job: Context) -> Mapping[str, Any]:
    found = plan(wanted, job)
    check_room(found.cache, found.files)
    hub = Hub(wanted.endpoint, BRIEF if found.away else LASTING)
    fetched = Download(hub, found.cache, found.listing.commit, job, _proven(wanted)).run(found.files)
    found.cache.remember(wanted.revision, found.listing.commit)
    kept = _publish(found, fetched)
    found.cache.sweep([file.etag for file in found.listing.files])
    received = sum(file.received for file in fetched.values())
    return _result(kept, found.folder, received=received, already=False)


def _publish(found: Plan, fetched: Mapping[str, Fetched]) -> Manifest:
    """Make the artifact of links and a manifest, read it as a checkpoint, and let it appear."""
    wanted, chosen, listing = found.wanted, found.examined.selection, found.listing
    kept = Manifest(
        model=wanted.model,
        format=chosen.format,
        quantization=chosen.quantization,
        files=tuple(_entry(fetched[file.path]) for file in found.files),
        source=f"{wanted.repo}:{chosen.weights[0].path}" if chosen.format == "gguf" else wanted.repo,
        revision=listing.commit,
        licence=listing.licence,
        origin={
            "by": "pull",
            "at": manifests.now(),
            "source": wanted.source,
            "asked_revision": wanted.revision,
        },
    )
    with store.staging(Path(wanted.models_dir)) as staged:
        for file in found.files:
            os.symlink(fetched[file.path].blob.absolute(), staged / file.name)
        with preflight.called(wanted.repo, staged):
            checkpoint.inspect(store.content(staged, chosen.format) or staged)
        manifests.write(staged, kept)
        store.publish(staged, found.folder)
    return kept


def _entry(fetched: Fetched) -> FileEntry:
    stat = fetched.blob.stat()
    return FileEntry(fetched.file.name, stat.st_size, fetched.sha256, stat.st_mtime_ns)


def _artifacts(wanted: Wanted) -> list[tuple[Path, Manifest]]:
    """The artifacts of this model that lie here with a manifest that can be read."""
    found = []
    for folder in sorted((Path(wanted.models_dir) / wanted.model).glob("*/")):
        with contextlib.suppress(LlmctlError):
            if kept := manifests.read(folder):
                found.append((folder, kept))
    return found


def _meant(wanted: Wanted, kept: Manifest) -> bool:
    """Whether this artifact came by a pull of the same."""
    return (
        kept.origin.get("by") == "pull"
        and wanted.source in (kept.origin.get("source"), kept.source)
        and wanted.format in (AUTO, kept.format)
        and wanted.quantization in (None, kept.quantization)
    )


def _proven(wanted: Wanted) -> dict[str, str]:
    """The sha256 by etag of blobs that an unchanged artifact of this model links to: they are not read again."""
    proven = {}
    for folder, kept in _artifacts(wanted):
        for entry in kept.files:
            path = folder / entry.path
            if path.is_symlink() and entry.unchanged(folder):
                proven[Path(os.readlink(path)).name] = entry.sha256
    return proven


def _result(kept: Manifest, folder: Path, *, received: int, already: bool) -> Mapping[str, Any]:
    return {
        "model": kept.model,
        "format": kept.format,
        "quantization": kept.quantization,
        "path": str(folder),
        "bytes": kept.bytes,
        "files": len(kept.files),
        "received": received,
        "source": kept.source,
        "revision": kept.revision,
        "licence": kept.licence,
        "already": already,
    }
