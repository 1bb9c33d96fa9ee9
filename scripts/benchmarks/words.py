"""Prompts of a wanted length for the 0.5B model: words that are one token each, in ever another order."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

TRAINED = 400  # ids behind the bytes, whose words the tokenizer learned


@cache
def _words(tokenizer: Path) -> tuple[str, ...]:
    vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    learned = sorted((id, word[1:]) for word, id in vocabulary.items() if word.startswith("Ġ") and word[1:].isalpha())
    return tuple(word for _, word in learned[:TRAINED])


def prompt(checkpoint: Path, tokens: int, number: int) -> str:
    """About `tokens` tokens; the same for the same number."""
    return " " + " ".join(random.Random(number).choices(_words(checkpoint / "tokenizer.json"), k=tokens))
