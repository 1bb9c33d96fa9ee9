"""Thoughts between <think> and </think> at the beginning of an output; the rest is another parser's."""

from __future__ import annotations

from llmctl.decoding.pieces import Parser, Piece, Thought, begun

OPEN, CLOSE = "<think>", "</think>"


class Thinking:
    """`opened`: the prompt has opened the block already. White space at the block's edges is no part of anything."""

    def __init__(self, rest: Parser, *, opened: bool = False) -> None:
        self.markers = (OPEN, CLOSE, *rest.markers)
        self._rest = rest
        self._own = ""
        self._fresh = True  # nothing but white space has come of the present part
        self._step = self._inside if opened else self._before

    @property
    def held(self) -> str:
        return self._own + self._rest.held

    def push(self, text: str) -> list[Piece]:
        self._own += text
        return self._step()

    def end(self) -> list[Piece]:
        held, self._own = self._own, ""
        if self._step == self._inside:
            return [Thought(held)] if held.strip() else []
        return [*(self._rest.push(held) if self._step == self._before else []), *self._rest.end()]

    def _before(self) -> list[Piece]:
        seen = self._own.lstrip()
        if OPEN.startswith(seen):
            return []
        if seen.startswith(OPEN):
            self._own, self._step = seen[len(OPEN) :], self._inside
            return self._inside()
        self._step, self._fresh = self._after, False
        return self._after()

    def _inside(self) -> list[Piece]:
        if self._fresh:
            self._own = self._own.lstrip()
        at = self._own.find(CLOSE)
        certain = self._own[: at if at >= 0 else len(self._own) - begun(self._own, CLOSE)].rstrip()
        pieces: list[Piece] = [Thought(certain)] if certain else []
        self._fresh = self._fresh and not certain
        if at < 0:
            self._own = self._own[len(certain) :]
            return pieces
        self._own, self._step, self._fresh = self._own[at + len(CLOSE) :], self._after, True
        return pieces + self._after()

    def _after(self) -> list[Piece]:
        text, self._own = self._own, ""
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return self._rest.push(text) if text else []
