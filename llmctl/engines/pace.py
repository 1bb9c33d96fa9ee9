"""How large the next chunk of prompts is to be: a pass should take no longer than others would wait for it."""

from __future__ import annotations

# A cancel waits for the pass, and so do running sequences, where there are any. But each pass reads all weights again:
# at 60 tokens, half a second of a 0.5B model, a tenth of all there is.
BESIDE_RUNNING, ALONE = 1.0, 2.0  # seconds


def chunk(now: int, tokens: int, took: float, *, alone: bool, smallest: int, largest: int) -> int:
    """The size of the next chunk, after `tokens` of a pass `took` so many seconds; too few tokens teach nothing."""
    if tokens < smallest:
        return now
    return min(max(int(tokens / took * (ALONE if alone else BESIDE_RUNNING)), smallest), largest)
