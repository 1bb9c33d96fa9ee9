"""Prove that an artifact's files are the ones its manifest names, and heal those that are not."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from llmctl.errors import HubError, Refused, StateError
from llmctl.files import blocks
from llmctl.jobs.context import Context
from llmctl.models import cache, manifest, store
from llmctl.models.cache import RepoCache
from llmctl.models.crew import Stopped, work_through
from llmctl.models.download import Download, check_room
from llmctl.models.hub import Hub, RepoFile
from llmctl.models.hub_errors import Patience
from llmctl.models.manifest import FileEntry, Manifest

OK, CHANGED, MISSING = "ok", "changed", "missing"


@dataclass(frozen=True)
class FileReport:
    """One file: `state` is OK, CHANGED or MISSING."""

    path: str
    bytes: int
    state: str


@dataclass(frozen=True)
class VerifyReport:
    """All files that the manifest in `folder` names. `healed` are those that a repair has fetched again."""

    folder: Path
    manifest: Manifest
    files: tuple[FileReport, ...]
    healed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.bad

    @property
    def bad(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files if file.state != OK)


def verify(folder: Path, job: Context) -> VerifyReport:
    """Read every file of the artifact at `folder` and compare its sha256, on all cores. StateError: no manifest."""
    kept = _manifest(folder)
    states: dict[str, str] = {}
    done: dict[str, int] = {}
    stop = threading.Event()

    def check(entry: FileEntry) -> None:
        def on_bytes(at: int) -> None:
            done[entry.path] = at
            if stop.is_set():
                raise Stopped

        states[entry.path] = _state(folder / entry.path, entry, on_bytes)

    def report() -> None:
        job.progress("verifying", sum(done.copy().values()), kept.bytes)

    largest_first = sorted(kept.files, key=lambda entry: -entry.bytes)
    work_through(largest_first, check, os.cpu_count() or 1, report, stop)
    files = tuple(FileReport(entry.path, entry.bytes, states[entry.path]) for entry in kept.files)
    return VerifyReport(folder, kept, files)


def repair(report: VerifyReport, hub: Hub, root: Path, job: Context) -> VerifyReport:
    """Fetch the bad files of a report again, into the cache at `root`, from the very commit that the manifest names.

    Refused for what no hub has; HubError when the hub has other bytes now.
    """
    kept, folder = report.manifest, report.folder
    if report.passed:
        return report
    made = kept.origin.get("by", "something else")
    if made == "convert" or not kept.source or not kept.revision:
        raise Refused(
            f"{folder} was made by {made}, not pulled: {', '.join(report.bad)} cannot be fetched again",
            hint=f"make it again: llmctl {made} {kept.model} …",
        )
    with store.changing(kept.model, folder.parent.parent):
        repo, _, first = kept.source.partition(":")
        hub = Hub(hub.endpoint, Patience(note=job.note))
        listing = hub.listing(repo, kept.revision)
        bad = [entry for entry in kept.files if entry.path in report.bad]
        places = [str(PurePosixPath(first).with_name(e.path)) if first else e.path for e in bad]
        files = [_listed(listing.file(path), entry, kept) for path, entry in zip(places, bad, strict=True)]
        repository = RepoCache(root, repo)
        check_room(repository, files)
        fetched = Download(hub, repository, listing.commit, job).run(files)
        for file in files:
            cache.replace_by_link(folder / file.name, fetched[file.path].blob.absolute())
        manifest.write(folder, _healed(kept, folder, [file.name for file in files]))
    found = verify(folder, job)
    return VerifyReport(folder, found.manifest, found.files, report.bad)


def _state(path: Path, entry: FileEntry, on_bytes: Callable[[int], None]) -> str:
    """OK, CHANGED or MISSING; a file of another size is not read."""
    digest, at = hashlib.sha256(), 0
    try:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != entry.bytes:
                return CHANGED
            for block in blocks(file):
                digest.update(block)
                on_bytes(at := at + len(block))
    except FileNotFoundError:
        return MISSING
    except OSError:  # the disk cannot give its bytes
        return CHANGED
    return OK if digest.hexdigest() == entry.sha256 else CHANGED


def _manifest(folder: Path) -> Manifest:
    kept = manifest.read(folder)
    if kept is None:
        raise StateError(f"{folder} has no manifest to compare with", hint="llmctl pull or llmctl models import it")
    return kept


def _listed(file: RepoFile | None, entry: FileEntry, kept: Manifest) -> RepoFile:
    """The hub's file, when it is the one of the manifest."""
    if file is None or file.bytes != entry.bytes or (len(file.etag) == 64 and file.etag != entry.sha256):
        raise HubError(
            f"{kept.source} at {kept.revision} has no such {entry.path} any more: it cannot be healed", code="no_file",
            hint=f"llmctl models rm {kept.model}, then pull it again",
        )  # fmt: skip
    return file


def _healed(kept: Manifest, folder: Path, names: Sequence[str]) -> Manifest:
    """The manifest with the modification times of the new files."""
    times = {name: os.stat(folder / name).st_mtime_ns for name in names}
    files = tuple(replace(entry, mtime_ns=times.get(entry.path, entry.mtime_ns)) for entry in kept.files)
    return replace(kept, files=files)
