"""Which of several replicas answers: warm ones first, who has read the same beginning, who has least to do. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

BLOCK, BLOCKS = 1024, 16
"""Characters of a request's text that are compared as one, and how many of them."""
REMEMBERED = 4096
"""Blocks that are remembered of each replica."""
OVERLOAD, SLACK = 2.0, 2000
"""A replica that has more to do than that factor of the least, and so many tokens on top, loses its priority."""
DEFAULT_TOKENS = 256
"""What an answer is taken for that has no limit of its own."""
BYTES = 4
"""Of a request's text for a token."""


@dataclass
class Load:
    """What one replica has to do, and which beginnings it has read; times are of the loop's clock."""

    key: str
    warm: bool = True
    tokens: int = 0
    requests: int = 0
    read: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def took(self, tokens: int, chain: Sequence[int]) -> None:
        self.tokens += tokens
        self.requests += 1
        for block in chain:
            self.read[block] = None
            self.read.move_to_end(block)
        while len(self.read) > REMEMBERED:
            self.read.popitem(last=False)

    def gave(self, tokens: int) -> None:
        self.tokens -= tokens
        self.requests -= 1

    def knows(self, chain: Sequence[int]) -> int:
        """How many blocks from the first on it has read."""
        return next((n for n, block in enumerate(chain) if block not in self.read), len(chain))


def weight(text: str, most: int | None) -> int:
    """Tokens that a request is taken for before anybody counted them."""
    return len(text) // BYTES + (most if most is not None else DEFAULT_TOKENS)


def chain(text: str) -> tuple[int, ...]:
    """One number for each beginning of `text` that is a whole number of blocks long."""
    found, before = [], 0
    for at in range(0, min(len(text), BLOCK * BLOCKS) - BLOCK + 1, BLOCK):
        before = hash((before, text[at : at + BLOCK]))
        found.append(before)
    return tuple(found)


def ordered(loads: Iterable[Load], blocks: Sequence[int]) -> list[Load]:
    """All of them, the one to be asked first in front."""
    found = list(loads)
    least = min((load.tokens for load in found), default=0)

    def rank(load: Load) -> tuple[bool, int, int, int]:
        idle_enough = load.tokens <= OVERLOAD * least + SLACK
        return not load.warm, -load.knows(blocks) if idle_enough else 0, load.tokens, load.requests

    return sorted(found, key=rank)
