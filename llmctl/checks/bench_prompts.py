"""Prompts of a measurement: so many tokens (as text: about as many), each unlike all others from its beginning on."""

from __future__ import annotations

from llmctl.checks.bench_client import Prompt, Server
from llmctl.errors import UsageError

WORDS = (
    "harbour", "stone", "river", "lamp", "winter", "paper", "garden", "train", "silver", "window", "bread", "mountain",
    "yellow", "engine", "quiet", "letter", "orange", "bridge", "copper", "meadow", "signal", "velvet", "anchor",
    "thunder", "pocket", "marble", "candle", "forest", "ribbon", "saddle", "violin",
)  # fmt: skip


class Prompts:
    """Makes them by the tokenizer of one slot; `texts`: also as text, for a server with a tokenizer of its own."""

    def __init__(self, slot: Server, *, texts: bool = False) -> None:
        self.slot, self.texts, self.made = slot, texts, 0

    def some(self, tokens: int, count: int) -> list[Prompt]:
        """`count` prompts of `tokens` tokens that were not made before. UsageError where they cannot be as long."""
        return [self._one(tokens) for _ in range(count)]

    def _one(self, tokens: int) -> Prompt:
        words = text(self.made, tokens)
        ids = self.slot.tokenized(words)
        self.made += 1
        if len(ids) < tokens:
            raise UsageError(f"a prompt of {tokens} tokens cannot be made", hint="a smaller --prompt")
        return Prompt(ids[:tokens], words[: len(words) * tokens // len(ids)] if self.texts else "")


def text(number: int, words: int) -> str:
    """The text of prompt `number`: its first three words are no other's, so that no cache shortens it."""
    salt = [WORDS[(number // len(WORDS) ** place + number * place) % len(WORDS)] for place in range(3)]
    return " ".join(salt + [WORDS[(at * (number + 1) + number) % len(WORDS)] for at in range(words)])
