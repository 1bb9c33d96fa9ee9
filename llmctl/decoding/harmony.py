"""The channels of gpt-oss: analysis is thought, final is the answer, commentary to a function is a call.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>

The format is OpenAI's "harmony response format".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmctl.decoding.pieces import Piece, Stepping, Text, Thought, begun, calls_in

CHANNEL, MESSAGE, START = "<|channel|>", "<|message|>", "<|start|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>", START, CHANNEL)
TO = re.compile(r"to=functions\.([\w.-]+)")


class Harmony(Stepping):
    """An output that begins behind the prompt's `<|start|>assistant`; one without channels is text."""

    markers = (CHANNEL, MESSAGE, *ENDS, "<|constrain|>")

    def __init__(self, tools: Mapping[str, Any]) -> None:
        super().__init__(tools)
        self._head: str | None = None  # that of the message under way
        self._first = True

    def end(self) -> list[Piece]:
        if self._head is None:
            held, self.held = self.held, ""
            return [Text(held)] if held and (self._first or not held.startswith((START, CHANNEL))) else []
        return self._close("")

    def _advance(self, pieces: list[Piece]) -> bool:
        return self._in_head(pieces) if self._head is None else self._in_message(pieces)

    def _in_head(self, pieces: list[Piece]) -> bool:
        seen = self.held.lstrip()
        if self._first and not any(seen.startswith(m) or m.startswith(seen) for m in (CHANNEL, START, "to=")):
            self._head, self._first = "", False
            return True
        at = self.held.find(MESSAGE)
        if at < 0:
            return False
        self._head, self._first = self.held[:at], False
        self.held = self.held[at + len(MESSAGE) :]
        return True

    def _in_message(self, pieces: list[Piece]) -> bool:
        found = min(((at, m) for m in ENDS if (at := self.held.find(m)) >= 0), default=None)
        if found is not None:
            at, marker = found
            rest = self.held[at:] if marker in (START, CHANNEL) else self.held[at + len(marker) :]
            self.held = self.held[:at]
            pieces.extend(self._close(marker))
            self.held = rest
            return True
        if self._recipient() is None:
            cut = len(self.held) - max(begun(self.held, marker) for marker in ENDS)
            if cut:
                pieces.append(self._said(self.held[:cut]))
                self.held = self.held[cut:]
        return False

    def _close(self, marker: str) -> list[Piece]:
        """The message has ended: what is left of it."""
        body, self.held = self.held, ""
        name, head = self._recipient(), self._head or ""
        pieces: list[Piece] = [self._said(body)] if body else []
        if name is not None:
            call = '{"name": "' + name + '", "arguments": ' + body + "}"
            pieces = [*calls_in(call, self._tools)] or [Text(head + MESSAGE + body + marker)]
        self._head = None
        return pieces

    def _recipient(self) -> str | None:
        found = TO.search(self._head or "")
        return found[1] if found else None

    def _said(self, text: str) -> Piece:
        return Thought(text) if "analysis" in (self._head or "") else Text(text)
