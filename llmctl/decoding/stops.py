"""Find stop strings in a stream of text, releasing all that cannot be part of one.

A match is the one that *ends* first (of two that end together, the longer): the only rule under which the released
text does not depend on how the stream was cut. The search is Knuth, Morris and Pratt's, one state per stop string.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """`push` text, get what may be shown. After a match (`matched`) nothing more is released."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [s for s in stops if s]
        self._fallbacks = [_fallbacks(s) for s in self._stops]
        self._states = [0] * len(self._stops)  # how many characters of each stop the stream ends with
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that is now sure not to begin a stop string."""
        if not self._stops or self.matched is not None:
            return text if self.matched is None else ""
        seen = self._held + text
        for at, char in enumerate(text, start=len(self._held) + 1):
            length = self._advance(char)
            if length:
                self._held = ""
                return seen[: at - length]
        hold = max(self._states)
        cut = len(seen) - hold
        self._held = seen[cut:]
        return seen[:cut]

    def flush(self) -> str:
        """The stream has ended: what was held back is text after all."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> int:
        """Move every state by one character; the length of the longest stop that ends here, or 0."""
        found = 0
        for i, stop in enumerate(self._stops):
            state = self._states[i]
            while state and stop[state] != char:
                state = self._fallbacks[i][state]
            state += stop[state] == char
            self._states[i] = state
            if state == len(stop) and state > found:
                found, self.matched = state, stop
        return found


def _fallbacks(pattern: str) -> list[int]:
    """For each prefix length, the longest shorter prefix that is also its suffix."""
    table = [0] * (len(pattern) + 1)
    for end in range(2, len(pattern) + 1):
        length = table[end - 1]
        while length and pattern[length] != pattern[end - 1]:
            length = table[length]
        table[end] = length + (pattern[length] == pattern[end - 1])
    return table
