"""A slot's log: what its engines print and what its server notes, with times, rotated and capped."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import deque
from pathlib import Path

LARGEST = 4 * 2**20
KEEP = 2
TAIL = 40
LONGEST_LINE = 4000
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class EngineLog:
    """Appends lines to `path`; at LARGEST bytes it becomes `path.1`, and at most KEEP old files stay."""

    def __init__(self, path: Path, echo: bool = False) -> None:
        self.path, self.echo = path, echo
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 - open for as long as the server lives

    def line(self, who: str, text: str) -> None:
        """One line of `who` (an engine's pid, or `slot`); control characters are removed."""
        clean = CONTROL.sub("", text.rstrip())[:LONGEST_LINE]
        if not clean:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        row = f"{stamp} {who}: {clean}\n"
        if self.echo:
            os.write(2, row.encode(errors="replace"))
        if self.file.tell() > LARGEST:
            self.rotate()
        self.file.write(row.encode(errors="replace"))

    def rotate(self) -> None:
        self.file.close()
        for i in range(KEEP, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{i}")
            newer = self.path if i == 1 else self.path.with_name(f"{self.path.name}.{i - 1}")
            if newer.exists():
                newer.replace(older)
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    def follow(self, pipe: int, who: str) -> Pipe:
        """Copy what comes out of `pipe` (an engine's stdout and stderr) line by line."""
        return Pipe(self, pipe, who)

    def close(self) -> None:
        self.file.close()


class Pipe:
    """One engine's output on its way into the log."""

    def __init__(self, log: EngineLog, fd: int, who: str) -> None:
        self.log, self.fd, self.who = log, fd, who
        self.rest = b""
        self.tail: deque[str] = deque(maxlen=TAIL)
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self.read)

    def read(self) -> bool:
        """Copy what is there now; False when nothing was."""
        try:
            data = os.read(self.fd, 2**16)
        except BlockingIOError:
            return False
        *lines, self.rest = (self.rest + data).replace(b"\r", b"\n").split(b"\n")
        if not data or len(self.rest) > LONGEST_LINE:
            lines.append(self.rest)
            self.rest = b""
        for line in lines:
            text = CONTROL.sub("", line.decode(errors="replace")).strip()
            if text:
                self.tail.append(text[:LONGEST_LINE])
                self.log.line(self.who, text)
        if not data:
            self.close()
        return bool(data)

    def drain(self) -> None:
        """Read all that is there: after an engine's end, its last words."""
        while self.fd >= 0 and self.read():
            pass

    def close(self) -> None:
        if self.fd >= 0:
            asyncio.get_running_loop().remove_reader(self.fd)
            os.close(self.fd)
            self.fd = -1
