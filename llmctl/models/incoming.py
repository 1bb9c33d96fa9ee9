"""A file on its way: what has come of it lies in one partial file, and is hashed as it comes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from llmctl.files import blocks, sync
from llmctl.models.hub import RepoFile


class Digest:
    """The hashes of a file that comes bit by bit: sha256 for the manifest, and git's own where the hub gives that."""

    def __init__(self, file: RepoFile) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.git = None if len(file.etag) == 64 else hashlib.sha1(b"blob %d\0" % file.bytes)
        self.bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        self.sha256.update(data)
        if self.git:
            self.git.update(data)
        self.bytes += len(data)

    def read(self, fd: int, on_bytes: Callable[[int], None]) -> None:
        """Take a whole file in; `on_bytes` is told how far it is."""
        with open(fd, "rb", buffering=0, closefd=False) as file:
            file.seek(0)
            for block in blocks(file):
                self.update(block)
                on_bytes(self.bytes)

    @property
    def found(self) -> str:
        """The hash in the kind that the hub has listed."""
        return (self.git or self.sha256).hexdigest()

    @property
    def right(self) -> bool:
        """Whether these are the bytes that the hub has listed."""
        return self.bytes == self.file.bytes and self.found == self.file.etag


class Incoming:
    """The partial file at `path`. `received` counts what came now, `furthest` the end it ever had."""

    def __init__(self, file: RepoFile, path: Path, on_bytes: Callable[[int], None]) -> None:
        self.file, self.path, self.on_bytes = file, path, on_bytes
        self.received = self.furthest = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.digest = Digest(file)

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.fd)

    @property
    def at(self) -> int:
        """How many bytes there are."""
        return self.digest.bytes

    def resume(self) -> None:
        """Go on with what an earlier download left: hash it."""
        self.digest.read(self.fd, self.on_bytes)
        self.furthest = self.at

    def restart(self) -> None:
        """Forget what has come."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.digest = Digest(self.file)

    def take(self, data: bytes) -> None:
        """Append; what is more than the file has is dropped."""
        view = memoryview(data)[: self.file.bytes - self.at]
        self.digest.update(view)
        self.received += len(view)
        while view:
            view = view[os.write(self.fd, view) :]
        self.furthest = max(self.furthest, self.at)
        self.on_bytes(self.at)

    def keep(self, target: Path) -> None:
        """Make it visible as `target`, for good."""
        os.fsync(self.fd)
        os.replace(self.path, target)
        sync(target.parent)
