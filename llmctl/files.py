"""State files that survive kill -9: written whole or not at all, with the previous version kept beside."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from llmctl.errors import Busy, StateError

VERSION = 1
BLOCK = 2**20


def write_json(path: Path, data: Any) -> None:
    """Replace `path` by {"version", "data"}: temp file, fsync, rename, fsync of the folder; the old becomes .bak."""
    temp = _written(path, json.dumps({"version": VERSION, "data": data}, indent=1), private)
    if path.exists() and _parse(path) is not None:
        backup = path.with_suffix(".bak.tmp")
        backup.unlink(missing_ok=True)
        os.link(path, backup)
        os.replace(backup, path.with_suffix(".bak"))
    _put(temp, path)


def stamp(path: Path) -> tuple[int, int] | None:
    """Another value when the file has changed; None without one."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_ino
    return None


def append(path: Path, line: bytes) -> os.stat_result:
    """Add a line to a file, in one write; a line that a crash cut short stays alone. What the file is then."""
    before = b"" if _ends_a_line(path) else b"\n"
    with open(path, "ab", buffering=0, opener=private) as file:
        if file.write(before + line + b"\n") < len(before) + len(line) + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return os.fstat(file.fileno())


def _ends_a_line(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except OSError:
        return True


def write_text(path: Path, text: str, opener: Callable[[str, int], int] | None = None) -> None:
    """Replace a file that people edit by `text`, whole or not at all; its folder is made, no backup is kept."""
    _put(_written(path, text, opener), path)


def _written(path: Path, text: str, opener: Callable[[str, int], int] | None = None) -> Path:
    """A new file beside `path` that holds `text` and is on the disk."""
    if opener is private:
        private_folder(path.parent)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _or_gone(temp), open(temp, "w", encoding="utf-8", opener=opener) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return temp


def _put(temp: Path, path: Path) -> None:
    with _or_gone(temp):
        os.replace(temp, path)
    sync(path.parent)


@contextlib.contextmanager
def _or_gone(temp: Path) -> Iterator[None]:
    """A new file that cannot be finished takes no room."""
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def blocks(file: FileIO) -> Iterator[memoryview]:
    """The rest of an unbuffered file, a block at a time in one buffer: use each before the next."""
    buffer = memoryview(bytearray(BLOCK))
    while count := file.readinto(buffer):
        yield buffer[:count]


def read_json(path: Path, *, restore: bool = True) -> Any | None:
    """The data in `path`, None when there is no such file.

    A torn or empty file is replaced by its backup; StateError when the backup is no good either, or when the file is
    of a newer version. What cannot be read is never overwritten: the torn file is kept as .torn. Without `restore`
    that is a StateError at once: for what may not go back to what it was before the last change.
    """
    if not path.exists():
        return None
    found = _parse(path)
    if found is None and not restore:
        raise StateError(
            f"{path} cannot be read", hint=f"mend it, or take what it was before: {path.with_suffix('.bak')}"
        )
    if found is None:
        found = _parse(path.with_suffix(".bak"))
        if found is None:
            raise StateError(
                f"{path} cannot be read and has no usable backup",
                hint=f"move it away (mv {path} {path}.bad) and load the slot again",
            )
        os.replace(path, path.with_suffix(".torn"))
        write_json(path, found["data"])
    if found["version"] > VERSION:
        raise StateError(
            f"{path} was written by a newer llmctl (state version {found['version']}, this one reads {VERSION})",
            hint="run the newer llmctl, or `llmctl deploy` the newer version again",
        )
    return found["data"]


def _parse(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    good = isinstance(found, dict) and isinstance(found.get("version"), int) and "data" in found
    return found if good else None


def private(path: str, flags: int) -> int:
    """An opener: what is made is its owner's alone."""
    return os.open(path, flags, 0o600)


def private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, each its owner's alone; one that is there stays as it is."""
    for folder in reversed([one for one in (path, *path.parents) if not one.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)


def standing(path: Path) -> Path:
    """What is there of a path: it, or the nearest folder above it that exists."""
    return next(one for one in (path, *path.parents) if one.exists())


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, what: str = "") -> Iterator[int]:
    """An exclusive flock on `path` (made 0600 if missing); Busy at once with wait=False when another process has it."""
    fd = take_lock(path, wait=wait, what=what)
    try:
        yield fd
    finally:
        os.close(fd)


def take_lock(path: Path, *, wait: bool, what: str) -> int:
    """The descriptor holding the flock; closing it (or dying) releases it."""
    private_folder(path.parent)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        raise Busy(f"{what or path} is held by another process", details={"owner": str(path)}) from None
    return fd
