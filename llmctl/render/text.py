"""Tables and units as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "swapping": "yellow",
    "stopping": "yellow",
    "sleeping": "cyan",
    "failed": "red",
    "crash-loop": "red",
    "backoff": "red",
    "down": "red",
    "disabled": "magenta",
    "running": "yellow",
    "queued": "cyan",
    "done": "green",
    "lost": "red",
    "unreadable": "red",
    "unknown": "red",
    "not deployed": "magenta",
    "skew": "yellow",
}


class Table(NamedTuple):
    """Rows under headers; `right` names the columns that hold numbers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()


View = Callable[[Mapping[str, Any]], "str | Table"]


def plain_table(table: Table) -> str:
    """Columns aligned by spaces."""
    lines = [table.headers, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.headers))]
    right = [header in table.right for header in table.headers]

    def aligned(line: Sequence[str]) -> str:
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        return "  ".join(cells).rstrip()

    return "\n".join(map(aligned, lines))


def rich_of(table: Table) -> RichTable:
    """The same with colours."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for header in table.headers:
        shown.add_column(header, justify="right" if header in table.right else "left", no_wrap=header != "WHY")
    for row in table.rows:
        shown.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return shown


def rich_table(table: Table) -> None:
    from rich.console import Console

    Console().print(rich_of(table))


def size(count: int | None) -> str:
    """Bytes as people read them, decimal."""
    if count is None:
        return "-"
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


BYTES_FROM = 10**6


def amount(count: float, total: float) -> str:
    """A count of a job's progress: of bytes where its `total` is BYTES_FROM or more, else a plain number."""
    return size(int(count)) if total >= BYTES_FROM else f"{count:.0f}" if count >= 10 else f"{count:.3g}"


def counted(number: int, what: str) -> str:
    """1 slot, 2 slots."""
    return f"{number} {what}{'s' * (number != 1)}"


def escaped(text: str) -> str:
    """`text` with its control characters made visible, for what comes from outside (names of files, notes)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def duration(seconds: float) -> str:
    """12.3s, 4m05s, 3h20m or 2d4h."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"
