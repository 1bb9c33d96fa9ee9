"""What a model says, as it is shown: as it is where a program reads it, harmless where a terminal does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.render.text import escaped

# Everything that moves the cursor, changes a colour or turns the direction of writing; not the new line and the tab.
_DRIVING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
DIM, RESET = "\x1b[2m", "\x1b[0m"


def spoken(text: str) -> str:
    """`text` for a terminal: what would drive it is escaped."""
    return _DRIVING.sub(lambda found: escaped(found[0]), text)


class Voice:
    """Makes what is printed of pieces. For a terminal: escaped, thoughts dimmed (`colour`), an empty line after them.

    Elsewhere (`terminal` False) the answer is left as it is, and thoughts are left out.
    """

    def __init__(self, terminal: bool, colour: bool = True) -> None:
        self.terminal, self.colour = terminal, colour
        self._thinking = False

    def text(self, piece: str, reasoning: bool) -> str:
        """What to print of a piece."""
        if not self.terminal:
            return "" if reasoning else piece
        shown = spoken(piece)
        if reasoning:
            self._thinking = True
            return f"{DIM}{shown}{RESET}" if self.colour else shown
        gap = "\n\n" if self._thinking else ""
        self._thinking = False
        return gap + shown


def settings(values: Mapping[str, Any]) -> str:
    """The settings, one a line."""
    return "\n".join(f"{name} = {escaped(repr(value))}" for name, value in values.items())


def names(models: Sequence[str]) -> str:
    """Names of models, one a line."""
    return "\n".join(map(escaped, models))
