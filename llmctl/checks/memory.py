"""An engine's resident memory against the estimate that let it in. Pure but for reading the model's header.

The estimate counts every sequence full. llama.cpp allots its keys and values at once; torch and mlx grow them with
the answers, so that from below they are held to what is there from the start: the weights and the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmctl.domain import SlotSpec
from llmctl.models.checkpoint import inspect
from llmctl.slots.admission import gb
from llmctl.slots.resolve import needs
from llmctl.slots.tuning import draft_of

WITHIN = 0.15
ALLOTS_AT_ONCE = ("llamacpp",)


class NotMeant(Exception):
    """There is nothing to compare, and why."""


@dataclass(frozen=True)
class Expected:
    """Bytes: the estimate, and the part of it that is held before any answer is long."""

    most: int
    least: int


def expected(spec: SlotSpec, backend: str) -> Expected:
    """What an engine with this spec should hold; NotMeant where its resident memory does not say."""
    engine = spec.engine
    if engine.format == "script":
        raise NotMeant("a script has no weights to estimate")
    if backend != "cpu":
        raise NotMeant(f"the resident memory of a process does not hold all that it has on {backend}")
    fit = needs(inspect(Path(engine.path)), engine, backend, draft_of(engine))
    grown = 0 if engine.engine in ALLOTS_AT_ONCE else fit.kv
    return Expected(spec.needed_bytes, spec.needed_bytes - grown)


def fault(expected: Expected, held: int) -> str | None:
    """Why `held` bytes are not what was estimated; None when they are, within WITHIN."""
    if held > expected.most * (1 + WITHIN):
        return f"{gb(held)} held, {gb(expected.most)} estimated: {held / expected.most - 1:+.0%}"
    if held < expected.least * (1 - WITHIN):
        return f"{gb(held)} held, at least {gb(expected.least)} estimated: {held / expected.least - 1:+.0%}"
    return None


def told(expected: Expected, held: int) -> str:
    """The figures of a memory that is right."""
    if expected.least == expected.most:
        return f"{gb(held)} held, {gb(expected.most)} estimated"
    return f"{gb(held)} held, {gb(expected.least)} to {gb(expected.most)} estimated"
