"""A table on a terminal that paints a line again only when something on it is not as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from llmctl.top.cells import Column, Row, gap, widths

HEAD, HERE, AWAY = Style.parse("bold"), Style(reverse=True), Style(bold=True)


class Grid(ScrollView):
    """Rows under headers, one of them under a cursor when `walked`; a table without titles has no line for them."""

    DEFAULT_CSS = "Grid { overflow-x: hidden; scrollbar-size-vertical: 1; } Grid.-still { overflow-y: hidden; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("up,k", "step(-1)"), ("down,j", "step(1)"), ("pageup", "step(-10)"), ("pagedown", "step(10)"),
        ("home,g", "step(-100000)"), ("end,G", "step(100000)"),
    ]  # fmt: skip

    class Moved(Message):
        """The cursor is on another row."""

        def __init__(self, grid: Grid) -> None:
            super().__init__()
            self.grid = grid

    def __init__(self, columns: Sequence[Column], *, id: str, walked: bool = False) -> None:
        super().__init__(id=id, classes="" if walked else "-still")
        self.can_focus = walked
        self.columns, self.head = columns, int(any(column.title for column in columns))
        self.rows: list[Row] = []
        self.at: str | None = None
        self._widths = [0] * len(columns)
        self._painted: dict[tuple[Row, bool, bool], Strip] = {}

    def on_resize(self) -> None:
        self._arrange()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    @property
    def place(self) -> int:
        """Where the cursor is, counted in rows."""
        return next((place for place, row in enumerate(self.rows) if row.key == self.at), 0)

    def show(self, rows: Sequence[Row]) -> None:
        """Have these rows; the cursor stays on its row where that is still there, else in its place."""
        if list(rows) == self.rows:
            return
        before, place = self.rows, self.place
        self.rows = list(rows)
        if self.can_focus and self.at not in {row.key for row in rows}:
            self.at = rows[min(place, len(rows) - 1)].key if rows else None
            self.post_message(self.Moved(self))
        if len(before) != len(rows):
            self._arrange()
            return
        was, self._widths = self._widths, self._fit()
        if was != self._widths:
            self._arrange()
            return
        for line, (old, new) in enumerate(zip(before, rows, strict=True)):
            if old != new:
                self.refresh_line(line + self.head)

    def action_step(self, by: int) -> None:
        if not self.rows:
            return
        was = self.place
        place = min(max(0, was + by), len(self.rows) - 1)
        self.at = self.rows[place].key
        for line in {was, place}:
            self.refresh_line(line + self.head)
        line, top, seen = place + self.head, self.scroll_offset.y, self.size.height
        if not top + self.head <= line < top + seen:
            self.scroll_to(y=line - self.head if line < top + seen else line - seen + 1, animate=False)
        self.post_message(self.Moved(self))

    def render_line(self, y: int) -> Strip:
        line = y + self.scroll_offset.y
        if self.head and y == 0:  # it stays above what is scrolled
            return self._strip([column.title for column in self.columns], [HEAD] * len(self.columns), None)
        place = line - self.head
        if not 0 <= place < len(self.rows):
            return Strip.blank(self.size.width, Style())
        row = self.rows[place]
        here = self.can_focus and row.key == self.at
        known = (row, here, self.has_focus)
        if known not in self._painted:
            whole = (HERE if self.has_focus else AWAY) if here else None
            styles = [Style.parse(cell.style) for cell in row.cells]
            if len(self._painted) > 4 * len(self.rows) + 64:
                self._painted.clear()
            self._painted[known] = self._strip([cell.text for cell in row.cells], styles, whole)
        return self._painted[known]

    def _strip(self, texts: Sequence[str], styles: Sequence[Style], whole: Style | None) -> Strip:
        segments, blank, between = [], whole or Style(), " " * gap(self.size.width)
        for text, style, width, column in zip(texts, styles, self._widths, self.columns, strict=True):
            shown = text.rjust(width) if column.right else text
            segments += [Segment(set_cell_size(shown, width), style + whole), Segment(between, blank)]
        return Strip(segments[:-1]).adjust_cell_length(self.size.width, blank)

    def _fit(self) -> list[int]:
        return widths(self.columns, self.rows, self.size.width)

    def _arrange(self) -> None:
        self._widths = self._fit()
        self._painted.clear()
        self.virtual_size = Size(self.size.width, len(self.rows) + self.head)
        self.refresh(layout=True)
