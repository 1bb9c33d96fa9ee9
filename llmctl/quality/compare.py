"""A run held against what the same prompts did before: what got worse, and what is expected from now on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmctl.quality.run import Row

Expected = Mapping[str, str]
"""The prompts that have to pass, by name, each with the fingerprint of the prompt that did."""


@dataclass(frozen=True)
class Verdict:
    """`regressed` passed before and do not now, `faults` may never fail, `failed` never passed; `passed` is the rest.

    `gained` are those of the passed that are new, or did not before.
    """

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    regressed: tuple[str, ...]
    faults: tuple[str, ...]
    gained: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not self.regressed and not self.faults

    def status(self, prompt: str) -> str:
        """What it is in a word: pass, fail, regressed or fault."""
        words = {"pass": self.passed, "fail": self.failed, "regressed": self.regressed, "fault": self.faults}
        return next(word for word, names in words.items() if prompt in names)


def judged(rows: Sequence[Row], expected: Expected) -> Verdict:
    """A prompt that was changed since is a new one."""
    faults = {row.prompt for row in rows if row.fault}
    before = {row.prompt for row in rows if expected.get(row.prompt) == row.fingerprint}
    passed = tuple(row.prompt for row in rows if row.passed)
    other = [row.prompt for row in rows if not row.passed and row.prompt not in faults]
    return Verdict(
        passed,
        tuple(name for name in other if name not in before),
        tuple(name for name in other if name in before),
        tuple(row.prompt for row in rows if row.prompt in faults),
        tuple(name for name in passed if name not in before),
    )


def expected_now(rows: Sequence[Row], before: Expected, *, accept: bool) -> dict[str, str]:
    """What has to pass next time: what passes now besides, or with `accept` only what passes of these prompts."""
    asked = {row.prompt for row in rows}
    kept = {name: fingerprint for name, fingerprint in before.items() if not accept or name not in asked}
    return {**kept, **{row.prompt: row.fingerprint for row in rows if row.passed}}
