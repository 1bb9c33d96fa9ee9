"""The text of one sequence on its way out: detokenized, stop strings cut off, log-probabilities aligned with it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from llmctl.decoding.detokenize import Detokenizer
from llmctl.decoding.pieces import Call, Parser, Piece, Text, Thought
from llmctl.decoding.stops import StopMatcher
from llmctl.domain import CallPiece, TokenLogprob


class Said(NamedTuple):
    """What can be shown now."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.calls)

    def then(self, more: Said) -> Said:
        """This and what follows it."""
        text, reasoning = self.text + more.text, self.reasoning + more.reasoning
        return Said(text, self.logprobs + more.logprobs, reasoning, self.calls + more.calls)


class Output(Protocol):
    """Tokens in, what they say out."""

    calls: int
    """How many tools were called."""

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text."""

    @property
    def complete(self) -> bool:
        """Whether nothing more may follow."""

    def push(self, token: int, logprob: TokenLogprob | None = None) -> Said: ...
    def finish(self) -> Said: ...


class TextOutput:
    """Tokens in, releasable text and log-probabilities out.

    A token's log-probability is released with the first character it contributed to; those of tokens that lie wholly
    in or behind a matched stop string are dropped, as their text is.
    """

    calls = 0

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops)
        self._made = 0  # characters detokenized so far
        self._shown = 0  # characters released so far
        self._waiting: list[tuple[int, TokenLogprob]] = []  # (where the token's text starts, …)

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text."""
        return self._matcher.matched

    @property
    def complete(self) -> bool:
        return self._matcher.matched is not None

    def push(self, token: int, logprob: TokenLogprob | None = None) -> Said:
        """What one more token makes releasable."""
        if logprob is not None:
            self._waiting.append((self._made, logprob))
        return self._release(self._detokenizer.push(token))

    def finish(self) -> Said:
        """What is left at the end. A stop string may still match, by its last, incomplete character."""
        text, logprobs, *_ = self._release(self._detokenizer.flush())
        if self.matched is None:
            held = self._matcher.flush()
            text, self._shown = text + held, self._shown + len(held)
            logprobs += tuple(p for _, p in self._waiting)
        self._waiting = []
        return Said(text, logprobs)

    def _release(self, text: str) -> Said:
        self._made += len(text)
        shown = self._matcher.push(text)
        self._shown += len(shown)
        count = 0
        while count < len(self._waiting) and self._waiting[count][0] < self._shown:
            count += 1
        logprobs = tuple(p for _, p in self._waiting[:count])
        del self._waiting[:count]
        return Said(shown, logprobs)


class ParsedOutput:
    """The output of a model that thinks or calls tools, told apart by `parser`; stop strings are looked for in its
    text alone. With `one_call` the first call is the end.

    Log-probabilities are those of all tokens: each comes when it is certain what its token belongs to.
    """

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], parser: Parser, *, one_call: bool) -> None:
        self.calls = 0
        self.matched: str | None = None
        self._detokenizer, self._stops, self._parser, self._one_call = detokenizer, stops, parser, one_call
        self._matcher = StopMatcher(stops)
        self._waiting: list[TokenLogprob] = []

    @property
    def complete(self) -> bool:
        return self.matched is not None or (self._one_call and self.calls > 0)

    def push(self, token: int, logprob: TokenLogprob | None = None) -> Said:
        if logprob is not None:
            self._waiting.append(logprob)
        return self._said(self._parser.push(self._detokenizer.push(token)))

    def finish(self) -> Said:
        """What is left at the end."""
        if self.complete:
            return Said()
        return self._said([*self._parser.push(self._detokenizer.flush()), *self._parser.end()], last=True)

    def _said(self, pieces: Sequence[Piece], *, last: bool = False) -> Said:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[CallPiece] = []
        for piece in pieces:
            if self.complete:
                break
            if isinstance(piece, Text):
                texts.append(self._matcher.push(piece.text))
                self.matched = self._matcher.matched
            elif isinstance(piece, Thought):
                thoughts.append(piece.text)
            else:
                texts.append(self._flushed())
                calls.append(self._called(piece))
        if last and not self.complete:
            texts.append(self._flushed())
        logprobs: tuple[TokenLogprob, ...] = ()
        if last or self.complete or not self._parser.held:
            logprobs, self._waiting = tuple(self._waiting), []
        return Said("".join(texts), logprobs, "".join(thoughts), tuple(calls))

    def _flushed(self) -> str:
        """What was held as the beginning of a stop string: text, when something else follows."""
        held, self._matcher = self._matcher.flush(), StopMatcher(self._stops)
        return held

    def _called(self, call: Call) -> CallPiece:
        index, self.calls = self.calls, self.calls + 1
        return CallPiece(index, f"call_{secrets.token_hex(12)}", call.name, call.arguments)
