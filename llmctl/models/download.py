"""Files of the hub into the cache: resumed over processes, hashed as they come, visible only when their hash is right.

The loop over ranges is our own, over huggingface-hub's session: its `http_get` cannot hash on the way, starts again
without telling when a hub ignores the range, and takes no file above 50 GB; its downloads never resume over processes.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmctl.errors import HubError, LlmctlError, NoSpace
from llmctl.jobs.context import Context
from llmctl.models.cache import RepoCache, free_bytes
from llmctl.models.crew import Stopped, work_through
from llmctl.models.hub import PIECE, Hub, RepoFile
from llmctl.models.incoming import Digest, Incoming

WORKERS = 4
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Fetched:
    """A file that is whole in the cache. `received` bytes came from the hub for it."""

    file: RepoFile
    blob: Path
    sha256: str
    received: int


class Download:
    """The files of one repository at one commit on their way into the cache.

    `proven` are sha256 by etag of blobs that need no reading again: nothing has touched them since.
    """

    def __init__(self, hub: Hub, cache: RepoCache, commit: str, job: Context, proven: Mapping[str, str] = {}) -> None:
        self.cache, self.commit, self.job, self.proven = cache, commit, job, proven
        self.stop = threading.Event()
        self.hub = replace(hub, patience=replace(hub.patience, note=job.note, stop=self.stop))
        self.done: dict[str, int] = {}
        self.working: set[str] = set()
        self.fetched: dict[str, Fetched] = {}

    def run(self, files: Sequence[RepoFile]) -> dict[str, Fetched]:
        """Fetch all `files`; by path. The first error ends the others; what has come stays for the next time."""
        total = sum(file.bytes for file in files)

        def report() -> None:
            done = dict(self.done)
            parts = {file.path: (done.get(file.path, 0), file.bytes) for file in files if file.path in self.working}
            self.job.progress("downloading", sum(done.values()), total, parts)

        try:
            work_through(files, self._fetch, WORKERS, report, self.stop)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise no_space(self.cache, files) from error
            raise
        return self.fetched

    def _fetch(self, file: RepoFile) -> None:
        """One file, whole and right, or an LlmctlError."""
        self.working.add(file.path)
        try:
            with self.cache.locked(file.etag):
                blob, received = self.cache.blob(file), 0
                sha256 = self._found(file, blob) if blob.exists() else None
                if sha256 is None:
                    sha256, received = self._receive(file, blob)
                self.cache.link(self.commit, file)
                self.fetched[file.path] = Fetched(file, blob, sha256, received)
        finally:
            self.working.discard(file.path)

    def _found(self, file: RepoFile, blob: Path) -> str | None:
        """The sha256 of a blob that lay in the cache; None when it is damaged, and then it is gone."""
        if known := self.proven.get(file.etag):
            self.done[file.path] = file.bytes
            return known
        digest = Digest(file)
        with open(blob, "rb") as kept:
            digest.read(kept.fileno(), lambda at: self._at(file, at))
        if digest.right:
            return digest.sha256.hexdigest()
        self.job.note(f"{file.path} in the cache is damaged: it is fetched again")
        blob.unlink()
        return None

    def _receive(self, file: RepoFile, blob: Path) -> tuple[str, int]:
        """Fetch what is missing of a file, a second time from its start when the bytes prove wrong; its sha256."""
        with Incoming(file, self.cache.partial(file), lambda at: self._at(file, at)) as incoming:
            incoming.resume()
            for left in (1, 0):
                self._complete(incoming)
                if incoming.digest.right:
                    incoming.keep(blob)
                    return incoming.digest.sha256.hexdigest(), incoming.received
                found = incoming.digest.found
                incoming.restart()
                incoming.furthest = 0
                if left:
                    self.job.note(f"{file.path} came damaged: it is fetched again from its start")
            incoming.path.unlink()
        raise HubError(
            f"{file.path} of {self.cache.repo} came damaged twice: its hash should be {file.etag}, it is {found}",
            code="corrupt",
            hint="pull again later, or from another network: something on the way changes the bytes",
        )

    def _complete(self, incoming: Incoming) -> None:
        """Fetch to the end of the file, again from where a connection is lost."""
        about, attempt = f"{self.cache.repo}/{incoming.file.path}", 0
        while incoming.at < incoming.file.bytes:
            furthest = incoming.furthest
            try:
                self._piece(incoming)
                if incoming.furthest == furthest:
                    raise HubError(
                        f"{about} is shorter than the hub says: {incoming.at} of {incoming.file.bytes} bytes",
                        code="corrupt", hint="pull again later",
                    )  # fmt: skip
                attempt = 0
            except (LlmctlError, Stopped):
                raise
            except Exception as error:
                attempt = 1 if incoming.furthest > furthest else attempt + 1
                self._check()
                self.hub.pause(about, error, attempt)

    def _piece(self, incoming: Incoming) -> None:
        """One request for what follows the bytes there are."""
        start, stop = incoming.at, min(incoming.at + PIECE, incoming.file.bytes)
        with self.hub.open(self.cache.repo, self.commit, incoming.file.path, start, stop) as (at, chunks):
            if at != start:  # the hub ignores ranges
                incoming.restart()
            for chunk in chunks:
                incoming.take(chunk)
                if incoming.at == incoming.file.bytes:
                    return

    def _at(self, file: RepoFile, at: int) -> None:
        self._check()
        self.done[file.path] = at

    def _check(self) -> None:
        if self.stop.is_set():
            raise Stopped


def no_space(cache: RepoCache, files: Sequence[RepoFile]) -> NoSpace:
    """The error for a file system that cannot take what is missing of `files`."""
    needed, free = sum(cache.missing_bytes(file) for file in files), free_bytes(cache.folder)
    return NoSpace(
        f"{cache.repo} needs {needed:,} more bytes, {free:,} are free, at {cache.root}",
        hint="free space there, or point HF_HOME to a larger disk, and pull again: what has come is kept",
        details={"needed": needed, "free": free, "path": str(cache.root)},
    )


def check_room(cache: RepoCache, files: Sequence[RepoFile]) -> None:
    """NoSpace when what is missing of `files` does not fit."""
    if sum(cache.missing_bytes(file) for file in files) > free_bytes(cache.folder):
        raise no_space(cache, files)
