"""Is this engine sane? A verdict over two answers to the same question (decisions.md, "Sane"). Pure."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmctl.domain import STOP, Probe

LEAST_TOKENS = 8


@dataclass(frozen=True)
class Answer:
    """One probe generation: its text, the token ids, the log-probability of each, and why it ended."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str


def fault(probe: Probe, answers: Sequence[Answer]) -> str | None:
    """Why these answers are not those of a working model; None when they are."""
    first = answers[0]
    if any(a.ids != first.ids or a.text != first.text for a in answers):
        return f"two greedy generations differ: {first.text!r} and {answers[-1].text!r}"
    if not all(map(math.isfinite, first.logprobs)):
        return "a log-probability is not finite"
    if probe.expect is not None and probe.expect.casefold() not in first.text.casefold():
        return f"asked {probe.prompt!r}, expected {probe.expect!r} in the answer, got {first.text!r}"
    right_and_ended = probe.expect is not None and first.finish == STOP
    if len(first.ids) < LEAST_TOKENS and not right_and_ended:
        return f"only {len(first.ids)} tokens came ({first.text!r}), at least {LEAST_TOKENS} are wanted"
    if not first.text.strip():
        return "the answer is empty text"
    if not right_and_ended:
        token, count = Counter(first.ids).most_common(1)[0]
        if count * 2 > len(first.ids):
            return f"token {token} is {count} of {len(first.ids)} tokens: {first.text!r}"
    return None


def pieces(text: str) -> tuple[int, ...]:
    """What stands for token ids where an engine tells none: the text's words, or its characters when they are few."""
    words = text.split()
    parts = words if len(words) >= LEAST_TOKENS else text
    return tuple(zlib.crc32(part.encode("utf-8", "replace")) for part in parts)


def odd(numbers: Sequence[Sequence[float]]) -> str | None:
    """Why these vectors or scores, all for the same input, are not those of a working model; None when they are."""
    if any(one != numbers[0] for one in numbers):
        return "the same input gave different numbers"
    if not numbers[0] or not all(map(math.isfinite, numbers[0])) or not any(numbers[0]):
        return f"its numbers are {list(numbers[0][:4])}"
    return None
