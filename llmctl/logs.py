"""Log files of detached processes: clean lines with times, rotated and capped; and how they are read."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

LARGEST = 4 * 2**20
KEEP = 2
LONGEST_LINE = 4000
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """`text` as one line without escape sequences and control characters, and no longer than a log's line."""
    if not text.isprintable():  # else there is nothing to look for
        text = _CONTROL.sub("", text.replace("\n", " "))
    return text.strip()[:LONGEST_LINE]


class Log:
    """Appends lines to `path` (0600); at LARGEST bytes it becomes `path.1`, and at most KEEP old files stay."""

    def __init__(self, path: Path, echo: bool = False) -> None:
        self.path, self.echo = path, echo
        self.fd = self._open()

    def line(self, who: str, text: str) -> None:
        """One line of `who`: a pid, or what the text is. OSError when it cannot be written."""
        text = clean(text)
        if not text:
            return
        row = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {who}: {text}\n".encode(errors="replace")
        if self.echo:
            os.write(2, row)
        if os.fstat(self.fd).st_size > LARGEST:
            self.rotate()
        os.write(self.fd, row)

    def rotate(self) -> None:
        for i in range(KEEP, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{i}")
            newer = self.path if i == 1 else self.path.with_name(f"{self.path.name}.{i - 1}")
            if newer.exists():
                newer.replace(older)
        fresh = self._open()  # first: a number that is closed may be somebody else's before it is open again
        os.close(self.fd)
        self.fd = fresh

    def close(self) -> None:
        os.close(self.fd)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


class Lines:
    """Cuts a stream of bytes into clean lines; what a carriage return ends is a line too."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes; without data, what was left."""
        *lines, self.rest = (self.rest + data).replace(b"\r", b"\n").split(b"\n")
        if not data or len(self.rest) > LONGEST_LINE:
            lines.append(self.rest)
            self.rest = b""
        return [text for line in lines if (text := clean(line.decode(errors="replace")))]


class Tail:
    """Reads a log on from where it was, also after rotation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO | None = None
        self.rest = b""

    def new(self) -> list[str]:
        """The whole lines that came since the last call."""
        found: list[bytes] = []
        while True:
            if self.file is None:
                try:
                    self.file = open(self.path, "rb")  # noqa: SIM115 - replaced when the log rotates
                except FileNotFoundError:
                    break
            *lines, self.rest = (self.rest + self.file.read()).split(b"\n")
            found += lines
            if not self.path.exists() or os.stat(self.path).st_ino == os.fstat(self.file.fileno()).st_ino:
                break
            self.close()
        return [line.decode(errors="replace") for line in found]

    def close(self) -> None:
        if self.file:
            self.file.close()
            self.file = None


def read(path: Path, lines: int, going_on: Callable[[], bool] = lambda: False) -> Iterator[str]:
    """The last `lines` lines of a log, then, while `going_on()`, new ones as they come."""
    tail = Tail(path)
    with contextlib.closing(tail):
        before = tail.new()
        yield from before[-lines:] if lines else ()
        more = True
        while more:
            more = going_on()
            yield from tail.new()
            if more:
                time.sleep(0.2)
