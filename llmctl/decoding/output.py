"""The text of one sequence on its way out: detokenized, stop strings cut off, log-probabilities aligned with it."""

from __future__ import annotations

from collections.abc import Sequence

from llmctl.decoding.detokenize import Detokenizer
from llmctl.decoding.stops import StopMatcher
from llmctl.domain import TokenLogprob


class TextOutput:
    """Tokens in, releasable text and log-probabilities out.

    A token's log-probability is released with the first character it contributed to; those of tokens that lie wholly
    in or behind a matched stop string are dropped, as their text is.
    """

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

    def push(self, token: int, logprob: TokenLogprob | None = None) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What one more token makes releasable."""
        if logprob is not None:
            self._waiting.append((self._made, logprob))
        return self._release(self._detokenizer.push(token))

    def finish(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What is left at the end. A stop string may still match, by its last, incomplete character."""
        text, logprobs = self._release(self._detokenizer.flush())
        if self.matched is None:
            held = self._matcher.flush()
            text, self._shown = text + held, self._shown + len(held)
            logprobs += tuple(p for _, p in self._waiting)
        self._waiting = []
        return text, logprobs

    def _release(self, text: str) -> tuple[str, tuple[TokenLogprob, ...]]:
        self._made += len(text)
        shown = self._matcher.push(text)
        self._shown += len(shown)
        count = 0
        while count < len(self._waiting) and self._waiting[count][0] < self._shown:
            count += 1
        logprobs = tuple(p for _, p in self._waiting[:count])
        del self._waiting[:count]
        return shown, logprobs
