"""huggingface-hub's cache on disk: one place for the weights of a host, shared with every tool that uses that library.

`models--org--name/blobs/<etag>` holds the bytes, `snapshots/<commit>/<path>` links to them, `refs/<revision>` names a
commit. A file on its way lies beside the blobs under one name per etag, so that another process goes on with it; the
library's own lock for that etag guards both.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmctl.errors import Busy
from llmctl.files import locked, standing
from llmctl.models.hub import COMMIT, ETAG, Listing, RepoFile

PARTIAL = ".llmctl.incomplete"
LITTER_AGE = 600.0  # seconds without a write; where locks do not work, a download that lives is younger


@dataclass(frozen=True)
class RepoCache:
    """The part of the cache at `root` that belongs to one repository."""

    root: Path
    repo: str

    @property
    def folder(self) -> Path:
        return self.root / self._name

    @property
    def _name(self) -> str:
        return "--".join(("models", *self.repo.split("/")))

    def blob(self, file: RepoFile) -> Path:
        """Where the bytes of `file` lie, or would."""
        return self.folder / "blobs" / file.etag

    def partial(self, file: RepoFile) -> Path:
        """Where they lie while they come."""
        return self.folder / "blobs" / f"{file.etag}{PARTIAL}"

    def read(self, file: RepoFile, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, or the end, of a blob that is here; unproven."""
        with open(self.blob(file), "rb") as kept:
            kept.seek(start)
            return kept.read(max(0, stop - start))

    def missing_bytes(self, file: RepoFile) -> int:
        """What is still to be fetched of `file`."""
        if self.blob(file).exists():
            return 0
        with contextlib.suppress(OSError):
            return max(0, file.bytes - self.partial(file).stat().st_size)
        return file.bytes

    @contextlib.contextmanager
    def locked(self, etag: str, *, wait: bool = True) -> Iterator[None]:
        """Only one process on this host fetches this etag, be it llmctl or a tool on huggingface-hub."""
        path = self.root / ".locks" / self._name / f"{etag}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)  # with the umask: users may share a cache
        with locked(path, wait=wait, what=f"{etag} of {self.repo}"):
            yield

    def link(self, commit: str, file: RepoFile) -> None:
        """Show the blob as `file` of the snapshot `commit`."""
        relative = Path(*file.path.split("/"))
        link = self.folder / "snapshots" / commit / relative
        target = Path(*[".."] * (1 + len(relative.parts)), "blobs", file.etag)
        if link.is_symlink() and os.readlink(link) == str(target):
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        replace_by_link(link, target)

    def remember(self, revision: str | None, commit: str) -> None:
        """Keep which commit `revision` is, for the time when the hub cannot be asked."""
        if revision and COMMIT.fullmatch(revision):
            return
        path = self.folder / "refs" / (revision or "main")
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temp.write_text(commit)
        os.replace(temp, path)

    def commit(self, revision: str | None) -> str | None:
        """The commit that `revision` was when it was last asked for."""
        if revision and COMMIT.fullmatch(revision):
            return revision
        with contextlib.suppress(OSError, ValueError):
            found = (self.folder / "refs" / (revision or "main")).read_text().strip()
            return found if COMMIT.fullmatch(found) else None
        return None

    def listing(self, revision: str | None) -> Listing | None:
        """The files of `revision` that lie here whole, as a listing; None when there are none."""
        commit = self.commit(revision)
        if commit is None:
            return None
        folder = self.folder / "snapshots" / commit
        files = []
        for path in sorted(folder.rglob("*")):
            etag = Path(os.readlink(path)).name if path.is_symlink() else ""
            if ETAG.fullmatch(etag) and path.is_file():
                files.append(RepoFile(path.relative_to(folder).as_posix(), path.stat().st_size, etag))
        return Listing(self.repo, commit, tuple(files)) if files else None

    def sweep(self, wanted: Collection[str]) -> int:
        """Remove what dead downloads left here, but for the partials of the `wanted` etags; the bytes freed."""
        freed = 0
        for path in (self.folder / "blobs").glob("*.incomplete"):
            etag = path.name.split(".")[0]
            if path.name.endswith(PARTIAL) and etag in wanted:
                continue
            with contextlib.suppress(Busy, OSError), self.locked(etag, wait=False):
                stat = path.stat()
                if time.time() - stat.st_mtime > LITTER_AGE:
                    path.unlink()
                    freed += stat.st_size
        return freed


def free_bytes(path: Path) -> int:
    """What a user may still write on the file system that `path` is, or would be, on."""
    return shutil.disk_usage(standing(path)).free


def replace_by_link(path: Path, target: Path) -> None:
    """Make `path` a link to `target`, in place of what is there, at once."""
    temp = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    temp.unlink(missing_ok=True)
    os.symlink(target, temp)
    os.replace(temp, path)
