"""Rows of cells, how wide their columns are, and bars: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmctl.render.text import escaped

GOOD, WARN, BAD, INFO, DIM, BOLD, PLAIN = "green", "yellow", "red", "cyan", "dim", "bold", ""
ROOMY = 100
"""Columns of a terminal from which on there are two blanks between columns of a table."""
_FULL, _EMPTY = "█", "░"


@dataclass(frozen=True)
class Cell:
    """A text in a style of rich."""

    text: str = ""
    style: str = PLAIN


@dataclass(frozen=True)
class Column:
    """`most` bounds its width; of the last column of a table nothing does but the screen."""

    title: str
    right: bool = False
    most: int = 40


@dataclass(frozen=True)
class Row:
    """`key` names it over time."""

    key: str
    cells: tuple[Cell, ...]


def cell(text: object, style: str = PLAIN) -> Cell:
    """A cell of what may come from outside: its control characters are made visible."""
    return Cell(escaped(str(text)), style)


def bar(part: float, whole: float, width: int = 8) -> Cell:
    """How much of `whole` is taken, with its share in percent; nothing where that is not known."""
    if whole <= 0:
        return Cell("-", DIM)
    share = min(1.0, max(0.0, part / whole))
    full = round(share * width)
    style = BAD if share >= 0.95 else WARN if share >= 0.85 else GOOD
    return Cell(f"{_FULL * full}{_EMPTY * (width - full)} {100 * share:3.0f}%", style)


def gap(room: int) -> int:
    """Blanks between columns."""
    return 2 if room >= ROOMY else 1


def widths(columns: Sequence[Column], rows: Sequence[Row], room: int) -> list[int]:
    """As wide as what stands in them; the last takes what is left of `room`, and where too little is left the widest
    give way."""
    found = [
        min(column.most, max([len(column.title), *(len(row.cells[at].text) for row in rows)]))
        for at, column in enumerate(columns)
    ]
    found[-1], between = 0, gap(room) * (len(found) - 1)
    least = [max(4, len(column.title)) for column in columns]
    while sum(found) + between > room:
        widest = max(range(len(found)), key=lambda at: found[at] - least[at])
        if found[widest] <= least[widest]:
            break
        found[widest] -= 1
    found[-1] = max(0, room - sum(found) - between)
    return found
