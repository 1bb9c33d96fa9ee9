"""How many prompt tokens the next pass is to have: a pass should take no longer than others would wait for it."""

from __future__ import annotations

import math

# A cancel waits for the pass, and so do running sequences, where there are any. But each pass reads all weights again:
# at 60 tokens, half a second of a 0.5B model, a tenth of all there is.
BESIDE_RUNNING, ALONE = 1.5, 3.0  # seconds
SMALLEST, FIRST = 32, 64


class Pace:
    """Knows from the passes so far how many tokens a second takes."""

    def __init__(self) -> None:
        self._rate: float | None = None

    def most(self, largest: int, running: int, waiting: int) -> int:
        """Tokens of the next pass, a power of two or `largest`, which is all that the engine takes at once.

        `waiting` prompts count as much as `running` sequences do: the more of them, the longer those may be held up.
        """
        if self._rate is None:
            return min(FIRST, largest)
        patience = min(ALONE, BESIDE_RUNNING * (running + waiting) / running) if running else ALONE
        tokens = 1 << round(math.log2(max(1.0, self._rate * patience)))
        return min(max(tokens, SMALLEST), largest)

    def saw(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took so long; one of few tokens teaches nothing."""
        if tokens >= SMALLEST and seconds > 0:
            self._rate = tokens / seconds
