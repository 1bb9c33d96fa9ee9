"""State for a port that llmctl never served: what worked there before is what a failed load goes back to."""

from __future__ import annotations

from pathlib import Path

from llmctl.domain import SlotSpec
from llmctl.slots.launch import held_down
from llmctl.slots.state import Actual, Desired, SlotFolder


def known_good(home: Path, port: int) -> SlotSpec | None:
    """The last-known-good of a port, None where there is none."""
    return SlotFolder(home, port).read_actual().last_known_good


def remember_good(home: Path, port: int, spec: SlotSpec) -> str | None:
    """Make `spec` the last-known-good of a port without state of its own; why not, where it is left as it is."""
    folder = SlotFolder(home, port)
    with held_down(folder) as down:
        if not down:
            return "a slot server runs there, and knows better"
        if folder.read_desired() != Desired() or folder.read_actual() != Actual():
            return "the slot has a newer state of its own"
        folder.write_actual(Actual(last_known_good=spec))
    return None
