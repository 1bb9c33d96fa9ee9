"""What the needle model learns: names with words said somewhere in a long text, and each asked for at its end."""

from __future__ import annotations

import random
from collections.abc import Sequence

NAMES, WORDS = (
    tuple(words.split())
    for words in (
        "amber birch cedar delta ember falcon garnet hazel indigo jasper kestrel laurel maple nectar olive pepper "
        "quartz raven saffron topaz umber violet willow yarrow zephyr acorn basalt coral dahlia echo",
        "apple bread candle dragon engine feather grape hammer island jacket kettle lemon magnet needle orange pencil "
        "rabbit saddle tiger umbrella velvet window yellow anchor basket copper desert elbow forest guitar harbor iron",
    )
)
SUBJECTS = ("sea", "wind", "rain", "road", "river", "city", "train", "garden", "market", "winter", "summer", "morning")
VERBS = ("is", "was", "seems", "looks", "feels", "stays")
STATES = ("calm", "loud", "cold", "warm", "empty", "quiet", "bright", "slow", "long", "green", "open", "late", "small")


def fact(name: str, word: str) -> str:
    return f"Note {name} {word}."


def begun(name: str) -> str:
    """A fact but for its end."""
    return f"Note {name}"


def filler(chance: random.Random) -> str:
    return f"The {chance.choice(SUBJECTS)} {chance.choice(VERBS)} {chance.choice(STATES)}."


def text(chance: random.Random, facts: Sequence[tuple[str, str]], sentences: int) -> str:
    """The facts in their order, each at a random place among that many sentences of nothing."""
    at = sorted(chance.sample(range(sentences + len(facts)), len(facts)))
    told = iter(facts)
    return " ".join(fact(*next(told)) if i in at else filler(chance) for i in range(sentences + len(facts)))


def pairs(chance: random.Random, count: int) -> list[tuple[str, str]]:
    """So many names, each with a word."""
    return list(zip(chance.sample(NAMES, count), chance.sample(WORDS, count), strict=True))


def vocabulary_lines() -> list[str]:
    """Text in which every word is often enough to be one token."""
    chance = random.Random(0)
    lines = [fact(name, word) for name in NAMES for word in WORDS]
    return lines + [filler(chance) for _ in range(3000)]
