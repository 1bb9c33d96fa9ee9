"""What nothing needs any more: staging of the dead, partial downloads, superseded snapshots, and the quarantine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmctl.errors import Busy
from llmctl.files import locked
from llmctl.models import hf_cache, receiving, removing, store
from llmctl.models.cache import LITTER_AGE, RepoCache

STAGED, PARTIAL, SUPERSEDED, QUARANTINED = "staging", "partial download", "superseded snapshot", "quarantine"
COPY = "partial copy"
COPY_AGE = 86400.0
"""Seconds after the last byte of a file; others of its artifact may still be coming."""


@dataclass(frozen=True)
class Leftover:
    """One thing that can go, and the bytes that it would free."""

    kind: str
    path: Path
    bytes: int


def find(models_dir: Path, cache: Path, used: Collection[Path]) -> list[Leftover]:
    """Everything that can go; `used` are paths that slots and catalog entries name. Nothing is changed."""
    return [
        *_dead_staging(models_dir),
        *_half_copies(models_dir),
        *_quarantined(models_dir),
        *_partials(cache),
        *_superseded(models_dir, cache, used),
    ]


def clear(found: Iterable[Leftover], models_dir: Path, used: Collection[Path]) -> list[Leftover]:
    """Remove these; what somebody took up again in the meantime is left. Returns what is gone."""
    return [leftover for leftover in found if _CLEAR[leftover.kind](leftover.path, models_dir, used)]


# ── in the store ────────────────────────────────────────────────────────────────────────────────────────────────────


def _dead_staging(models_dir: Path) -> Iterator[Leftover]:
    for path in sorted((models_dir / store.STAGING).glob("*/")):
        with contextlib.suppress(Busy), locked(path.with_suffix(".lock"), wait=False):
            yield Leftover(STAGED, path, removing.own_bytes(path))


def _clear_staging(path: Path, models_dir: Path, used: Collection[Path]) -> bool:
    with store.staging(models_dir):  # it sweeps
        return not path.exists()


def _half_copies(models_dir: Path) -> Iterator[Leftover]:
    """What came from another host and was not gone on with for a while."""
    for path in sorted((models_dir / store.STAGING).glob(f"*{receiving.PARTIAL}")):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if time.time() - stat.st_mtime > COPY_AGE:
                yield Leftover(COPY, path, stat.st_size)


def _clear_half_copy(path: Path, models_dir: Path, used: Collection[Path]) -> bool:
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)
    return True


def _quarantined(models_dir: Path) -> Iterator[Leftover]:
    for path in sorted((models_dir / store.QUARANTINE).glob("*/*/")):
        yield Leftover(QUARANTINED, path, removing.own_bytes(path))


def _clear_quarantined(path: Path, models_dir: Path, used: Collection[Path]) -> bool:
    with contextlib.suppress(Busy), store.changing(path.parent.name, models_dir, wait=False):
        with store.staging(models_dir) as staged:
            os.rename(path, staged / path.name)
        with contextlib.suppress(OSError):  # others of the model are left
            path.parent.rmdir()
        return True
    return False


# ── in huggingface-hub's cache ──────────────────────────────────────────────────────────────────────────────────────


def _partials(cache: Path) -> Iterator[Leftover]:
    """Half files that no process holds the lock of and that were not written to for a while."""
    for path in sorted(cache.glob("models--*/blobs/*.incomplete")):
        repo = _repo(path.parent.parent)
        with contextlib.suppress(Busy, OSError), repo.locked(path.name.split(".")[0], wait=False):
            stat = path.stat()
            if time.time() - stat.st_mtime > LITTER_AGE:
                yield Leftover(PARTIAL, path, stat.st_size)


def _clear_partial(path: Path, models_dir: Path, used: Collection[Path]) -> bool:
    with contextlib.suppress(Busy), _repo(path.parent.parent).locked(path.name.split(".")[0], wait=False):
        path.unlink(missing_ok=True)
        hf_cache.prune(path.parent.parent)
        return True
    return False


def _superseded(models_dir: Path, cache: Path, used: Collection[Path]) -> Iterator[Leftover]:
    """Snapshots of repositories of which an artifact here uses a newer one, unless a reference names them."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    folders = list(removing.artifact_folders(models_dir))
    linked = {path for folder in folders for path in removing.linked(folder)}
    revisions = {removing.origin(folder)[1] for folder in folders}
    try:
        scanned = scan_cache_dir(cache)
    except CacheNotFound:
        return
    for repo in sorted(scanned.repos, key=lambda repo: str(repo.repo_path)):
        mine = [one for one in repo.revisions if one.commit_hash in revisions]
        newest = max((one.last_modified for one in mine), default=0.0)
        for old in sorted(repo.revisions - set(mine), key=lambda one: one.commit_hash):
            strategy = scanned.delete_revisions(old.commit_hash)
            needed = any(blob.resolve() in linked for blob in strategy.blobs)
            needed = needed or any(path.is_relative_to(old.snapshot_path) for path in used)
            if old.last_modified < newest and not old.refs and not needed:
                yield Leftover(SUPERSEDED, Path(old.snapshot_path), strategy.expected_freed_size)


def _clear_superseded(path: Path, models_dir: Path, used: Collection[Path]) -> bool:
    """Only what `find` still finds: an artifact may link to it by now."""
    from huggingface_hub import scan_cache_dir

    cache = path.parents[2]
    if path not in {leftover.path for leftover in _superseded(models_dir, cache, used)}:
        return False
    scan_cache_dir(cache).delete_revisions(path.name).execute()
    return True


def _repo(folder: Path) -> RepoCache:
    return RepoCache(folder.parent, hf_cache.repo_of(folder))


_CLEAR = {
    STAGED: _clear_staging,
    COPY: _clear_half_copy,
    PARTIAL: _clear_partial,
    QUARANTINED: _clear_quarantined,
    SUPERSEDED: _clear_superseded,
}
