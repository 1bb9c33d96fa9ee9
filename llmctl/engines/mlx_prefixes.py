"""What ended sequences leave for those that begin alike: their caches, least recently used given up first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmctl.engines import mlx_caches
from llmctl.engines.mlx_caches import Caches

MOST = 256
"""Kept sequences; each is compared with every new prompt."""


@dataclass(eq=False)
class Kept:
    """An ended sequence: the tokens that its plain caches hold, and their size in bytes."""

    adapter: str | None
    tokens: tuple[int, ...]
    caches: Caches
    bytes: int


class Prefixes:
    """Kept sequences, the least recently used first."""

    def __init__(self) -> None:
        self._kept: list[Kept] = []

    @property
    def bytes(self) -> int:
        return sum(kept.bytes for kept in self._kept)

    def add(self, adapter: str | None, tokens: Sequence[int], caches: Caches) -> None:
        """Keep a sequence; one that it begins with, and that holds nothing else, is given up for it."""
        new = Kept(adapter, tuple(tokens), caches, mlx_caches.size(caches))
        if mlx_caches.trimmable(caches):
            self._kept = [old for old in self._kept if old.adapter != adapter or not _begins(new.tokens, old.tokens)]
        self._kept = [*self._kept, new][-MOST:]

    def find(self, adapter: str | None, prompt: Sequence[int]) -> tuple[Kept | None, int]:
        """The kept sequence that shares most of the prompt's beginning, and how many tokens that is: fewer than all.

        Of one that cannot be cut, all or nothing is shared.
        """
        best, most = None, 0
        for kept in self._kept:
            shared = common(kept.tokens, prompt) if kept.adapter == adapter else 0
            if shared > most and (shared == len(kept.tokens) or mlx_caches.trimmable(kept.caches)):
                best, most = kept, shared
        if best:
            self._kept.remove(best)
            self._kept.append(best)
        return best, most

    def shrink(self, bytes: int) -> None:
        """Give up sequences until the rest needs no more than this."""
        while self._kept and self.bytes > bytes:
            del self._kept[0]

    def clear(self) -> None:
        self._kept.clear()


def common(tokens: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens of a prompt, all but the last at most, stand at the beginning of `tokens`."""
    most = min(len(tokens), len(prompt) - 1)
    return next((i for i in range(most) if tokens[i] != prompt[i]), most)


def _begins(tokens: tuple[int, ...], start: tuple[int, ...]) -> bool:
    return tokens[: len(start)] == start
