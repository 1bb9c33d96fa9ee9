"""What a program prints: bytes into lines as they come, and into the whole text at the end."""

from __future__ import annotations

import codecs

from llmctl.errors import LlmctlError
from llmctl.fleet.transport import OnLine

MOST = 64 * 2**20
"""Bytes that are kept of one program's output; more is an error."""


class Output:
    """The text of one pipe. `on_line` gets each line, without its end, as soon as it is whole."""

    def __init__(self, on_line: OnLine | None = None) -> None:
        self.on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []
        self._rest = ""
        self._size = 0

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def feed(self, data: bytes) -> None:
        """Take what came; no data is the end."""
        self._size += len(data)
        if self._size > MOST:
            raise LlmctlError(f"a program printed more than {MOST // 2**20} MiB")
        text = self._decoder.decode(data, final=not data)
        self._pieces.append(text)
        if self.on_line:
            for line in self._completed(text, not data):
                self.on_line(line)

    def pass_on(self, data: bytes) -> None:
        """As `feed`, and nothing is kept."""
        for line in self.lines(data):
            if self.on_line:
                self.on_line(line)

    def lines(self, data: bytes) -> list[str]:
        """The lines that `data` completes; nothing is kept, and no data is the end."""
        return self._completed(self._decoder.decode(data, final=not data), not data)

    def _completed(self, text: str, end: bool) -> list[str]:
        *lines, self._rest = (self._rest + text).split("\n")
        if end and self._rest:
            lines.append(self._rest)
            self._rest = ""
        return lines
