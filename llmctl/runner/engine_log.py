"""A slot's log: what its engines print and what its server notes."""

from __future__ import annotations

import asyncio
import os
from collections import deque

from llmctl.logs import Lines, Log

TAIL = 40


class EngineLog(Log):
    """A log that also takes what comes out of pipes."""

    def follow(self, pipe: int, who: str) -> Pipe:
        """Copy what comes out of `pipe` (an engine's stdout and stderr) line by line."""
        return Pipe(self, pipe, who)


class Pipe:
    """One engine's output on its way into the log."""

    def __init__(self, log: EngineLog, fd: int, who: str) -> None:
        self.log, self.fd, self.who = log, fd, who
        self.lines = Lines()
        self.tail: deque[str] = deque(maxlen=TAIL)
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self.read)

    def read(self) -> bool:
        """Copy what is there now; False when nothing was."""
        try:
            data = os.read(self.fd, 2**16)
        except BlockingIOError:
            return False
        for text in self.lines.feed(data):
            self.tail.append(text)
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
