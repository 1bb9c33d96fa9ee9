"""Which prompt begins as a sequence did before, and which ended sequence goes first: the texts beside the KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LEAST = 16
"""Fewer tokens are computed as fast as they are copied."""


@dataclass
class Text:
    """The tokens that a sequence holds, computed with this adapter."""

    adapter: str | None
    tokens: list[int] = field(default_factory=list)


class Prefixes:
    """The texts of all sequences: open ones, and ended ones that are kept, oldest first."""

    def __init__(self) -> None:
        self.texts: dict[int, Text] = {}
        self.kept: dict[int, None] = {}

    def longest(self, adapter: str | None, prompt: Sequence[int]) -> list[tuple[int, int]]:
        """(sequence, tokens that its text and the prompt begin with alike), most first; never the whole prompt."""
        found = []
        for seq, text in self.texts.items():
            if text.adapter == adapter and (same := common(text.tokens, prompt[:-1])) >= LEAST:
                found.append((seq, same))
        return sorted(found, key=lambda one: (-one[1], one[0] not in self.kept))

    def keep(self, seq: int) -> set[int]:
        """Keep the text of an ended sequence, as the newest; the kept ones that another one says all of."""
        new = self.texts[seq]
        needless = set()
        for other in self.kept:
            old = self.texts[other]
            if old.adapter == new.adapter:
                same = common(old.tokens, new.tokens)
                if same == len(old.tokens):
                    needless.add(other)
                elif same == len(new.tokens):
                    needless.add(seq)
        self.kept[seq] = None
        return needless

    def hold(self, seq: int) -> bool:
        """Whether this text is of an ended sequence; if so it is not among the kept until `keep` is called again."""
        ended = seq in self.kept
        self.kept.pop(seq, None)
        return ended

    def forget(self, seq: int) -> None:
        self.texts.pop(seq, None)
        self.kept.pop(seq, None)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def spent(text: Sequence[int], same: int) -> bool:
    """Whether little is lost when the row of this ended text goes to a sequence that shares `same` tokens with it."""
    return len(text) - same <= max(LEAST, same // 4)
