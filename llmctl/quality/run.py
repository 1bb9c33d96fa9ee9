"""Asks a handle all prompts, one after another: which of their tries pass, and how long answers take."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llmctl.errors import LlmctlError
from llmctl.quality.checks import ALWAYS, Reply, failures
from llmctl.quality.prompts import Prompt

SEED = 1


class Asked(Protocol):
    """What can be asked (`asking.Handle`)."""

    def ask(self, prompt: Prompt, seed: int, *, stream: bool) -> Reply: ...


@dataclass(frozen=True)
class Row:
    """One prompt: how many of its tries passed, and the first try's failure of each check that some try failed.

    `first` and `seconds` are medians of the answers that came; None where none did. `fault`: a check failed that no
    try may fail, or a prompt that must pass did not.
    """

    prompt: str
    fingerprint: str
    tries: int
    need: int
    hits: int
    failed: Mapping[str, str] = field(default_factory=dict)
    first: float | None = None
    seconds: float | None = None
    fault: bool = False

    @property
    def passed(self) -> bool:
        return self.hits >= self.need and not self.fault


def run(
    asked: Asked, prompts: Iterable[Prompt], tell: Callable[[str], None] = lambda message: None,
    until_fault: bool = False,
) -> tuple[list[Row], str | None]:  # fmt: skip
    """A row of each prompt, with `until_fault` up to the first that may never fail and does, and the model that
    answered last. What a server refuses is a failure of its try."""
    rows, model = [], None
    for prompt in prompts:
        tell(f"asking {prompt.name}")
        row, answered = _row(asked, prompt)
        rows.append(row)
        model = answered or model
        if until_fault and row.fault:
            break
    return rows, model


def _row(asked: Asked, prompt: Prompt) -> tuple[Row, str | None]:
    replies: list[Reply] = []
    failed: dict[str, str] = {}
    hits = 0
    for seed in range(SEED, SEED + prompt.tries):
        try:
            replies.append(reply := asked.ask(prompt, seed, stream=True))
            whole = asked.ask(prompt, seed, stream=False) if prompt.stream else None
            wrong = failures(prompt, reply, whole)
        except LlmctlError as error:
            wrong = {"answer": error.message}
        hits += not wrong
        failed = {**wrong, **failed}
    fault = any(check in failed for check in ALWAYS) or (prompt.must and hits < prompt.need)
    row = Row(
        prompt.name, prompt.fingerprint, prompt.tries, prompt.need, hits, failed,
        median(reply.first for reply in replies), median(reply.seconds for reply in replies), fault,
    )  # fmt: skip
    return row, replies[-1].model if replies else None


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None
