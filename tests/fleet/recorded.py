"""Facts of machines that this project has or has not: what the script printed there, in tests/fleet/facts."""

from __future__ import annotations

from pathlib import Path

from llmctl.fleet.facts import Facts
from llmctl.fleet.facts.gathering import Clock, parse

FOLDER = Path(__file__).parent / "facts"
NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))
THEN = Clock(1764000000.0, 1764000000.5)


def printed(name: str) -> str:
    """What the script printed there."""
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def facts_of(name: str) -> Facts:
    """The facts of one of NAMES."""
    return parse(printed(name), THEN)
