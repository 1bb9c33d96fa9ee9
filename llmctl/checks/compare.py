"""Are two greedy answers the same, and is an answer sane? Pure (decisions.md, "Sane" and "Equal tokens")."""

from __future__ import annotations

from llmctl.checks.slot_http import Said
from llmctl.domain import Probe
from llmctl.slots.probe import Answer, fault

CLOSE = 0.25
"""Nats between the two likeliest tokens up to which batches of different sizes may choose differently."""


def insane(probe: Probe, first: Said, second: Said) -> str | None:
    """Why these two answers to the probe are not those of a working model."""
    if why := fault(probe, [_seen(first)]):
        return why
    other = difference(first, second.text)
    return f"two greedy generations differ: {other}" if other else None


def difference(reference: Said, text: str, close: float = CLOSE, *, cut: bool = False) -> str | None:
    """How `text` differs from the reference answer; None where it does not, or only after a close call.

    With `cut`, the text may end sooner than the reference.
    """
    if text == reference.text or (cut and reference.text.startswith(text)):
        return None
    same = _common(text, reference.text)
    gap = _gap_at(reference, same)
    if gap <= close:
        return None
    near = slice(max(0, same - 20), same + 40)
    return f"{text[near]!r} instead of {reference.text[near]!r}"


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _gap_at(reference: Said, length: int) -> float:
    """The gap at the token that follows the first `length` characters of an answer."""
    at = 0
    for token in reference.tokens:
        at += len(token.text)
        if at > length:
            return token.gap
    return float("inf")


def _seen(said: Said) -> Answer:
    """An answer as the probe's verdict takes it: over HTTP a token is known by its text, where it has one."""
    numbers: dict[str, int] = {}
    ids: list[int] = []
    for token in said.tokens:
        whole = token.text and "\ufffd" not in token.text
        ids.append(numbers.setdefault(token.text, len(numbers)) if whole else -1 - len(ids))
    return Answer(said.text, tuple(ids), tuple(t.logprob for t in said.tokens), said.finish or "")


def stop_string(text: str) -> str | None:
    """Four characters out of the middle of an answer, to stop it there; None when it is too short."""
    for at in range(max(1, len(text) // 2), len(text) - 3):
        found = text[at : at + 4]
        if text.find(found) > 0:
            return found
    return None
