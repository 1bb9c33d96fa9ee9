"""Rows, columns and orders of the live view, and which lines of a table are painted again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from rich.style import Style
from textual.app import App, ComposeResult
from textual.geometry import Region

from llmctl.top import rows
from llmctl.top.acts import Act
from llmctl.top.cells import BAD, DIM, GOOD, WARN, Cell, Column, Row, bar, widths
from llmctl.top.grid import Grid
from llmctl.top.rows import ORDERS, Sight
from llmctl.watch.view import Snapshot
from tests.top.fixed import NOW, fleet, host, slot


def keys(words: str = "", order: str = "slot", reverse: bool = False) -> list[str]:
    return [found.key for found in rows.slots(fleet(), Sight(words, order, reverse), NOW)]


def test_words_must_all_be_there() -> None:
    assert keys("GPU1 phi") == ["gpu1:8102"]
    assert keys("chat") == ["gpu1:8101"]
    assert keys("gpu1 mistral") == []
    assert [row.key for row in rows.host_rows(fleet(), Sight("unknown"))] == ["attic"]


def test_orders_begin_with_what_is_to_be_looked_at() -> None:
    assert keys() == ["gpu1:8101", "gpu1:8102", "mac:8101", "mac:8102", "attic:8101"]
    assert keys(order="state")[:2] == ["gpu1:8102", "attic:8101"]
    assert keys(order="tok/s")[0] == keys(order="queue")[0] == "gpu1:8101"
    assert keys(order="for")[0] == "mac:8101"
    assert keys(order="model")[-1] == "mac:8102"
    for order in ORDERS:
        assert keys(order=order, reverse=True) == keys(order=order)[::-1]


def test_f9_a_slot_of_a_lost_host_is_unknown_never_down() -> None:
    (row,) = rows.slot_rows(rows.slots(fleet(), Sight("attic"), NOW), NOW)
    assert row.cells[2] == Cell("unknown", BAD)
    assert row.cells[-1].text.startswith("was ready: nothing was heard")
    assert "1 of 4 slots" in rows.title(fleet(), Sight(), NOW).cells[0].text


def test_ages_are_told_by_the_clock_of_the_host() -> None:
    early = host("gpu1", [slot(8101, "a", since=NOW - 3600 - 60)], at=NOW - 3600)  # its clock is an hour behind
    seen = Snapshot(1, NOW, {"gpu1": early})
    (row,) = rows.slot_rows(rows.slots(seen, Sight(), NOW), NOW)
    assert row.cells[6].text == "1m"


def test_bars() -> None:
    assert bar(0, 10) == Cell("░░░░░░░░   0%", GOOD)
    assert bar(5, 10).text == "████░░░░  50%"
    assert (bar(8.6, 10).style, bar(9.9, 10).style) == (WARN, BAD)
    assert bar(12, 10).text == "████████ 100%"
    assert bar(1, 0) == Cell("-", DIM)


@pytest.mark.parametrize("room", [20, 40, 80, 200])
def test_columns_fit(room: int) -> None:
    columns = [Column("A", most=30), Column("B"), Column("WHY")]
    shown = [Row("1", (Cell("a" * 40), Cell("b" * 20), Cell("c" * 300)))]
    found = widths(columns, shown, room)
    assert sum(found) + (2 if room >= 100 else 1) * 2 == room
    assert found[0] <= 30 and min(found[:2]) >= 4


def test_every_colour_is_one_of_the_sixteen() -> None:
    """A terminal of 16 or 256 colours shows them as its owner set them."""
    seen = fleet()
    shown = [*rows.slot_rows(rows.slots(seen, Sight(), NOW), NOW), *rows.host_rows(seen, Sight())]
    for style in {cell.style for row in shown for cell in row.cells} | set(rows.STYLES.values()):
        colour = Style.parse(style).color
        assert colour is None or (colour.number or 0) < 16


def test_an_act_tells_how_it_goes() -> None:
    act = Act(1, "load", "gpu1", None, "phi-4")
    stage = {"event": "stage", "stage": "weights", "done": 1, "total": 4, "elapsed": 2.0, "eta": 6.0}
    assert act.question == "Load phi-4 on a free port of gpu1?"
    assert act.going(stage).said == "weights 25 % · 2.0s · 6.0s left"
    assert act.going({"event": "note", "message": "no"}).said == "no"
    assert act.going({"event": "other"}) is act
    assert act.failed(OSError("boom")).said == "OSError: boom"


class Lone(App[None]):
    """One grid, which notes what of it is to be painted again."""

    def compose(self) -> ComposeResult:
        yield Noting([Column("A"), Column("B")], id="one", walked=True)


class Noting(Grid):
    painted: list[Region]

    def refresh(self, *regions: Region, **how: bool) -> Noting:  # type: ignore[override]
        self.painted = [*getattr(self, "painted", []), *(regions or [Region(0, 0, 999, 999)])]
        return super().refresh(*regions, **how)  # type: ignore[return-value]


def test_only_lines_that_changed_are_painted_again() -> None:
    table = [Row(str(n), (Cell(f"a{n}"), Cell(f"b{n}"))) for n in range(50)]

    async def run() -> None:
        async with Lone().run_test(size=(40, 12)) as pilot:
            grid = pilot.app.query_one(Noting)
            grid.show(table)
            await pilot.pause()
            grid.painted = []
            grid.show(list(table))
            assert grid.painted == []
            grid.show([*table[:3], replace(table[3], cells=(Cell("a3"), Cell("xx"))), *table[4:]])
            assert [(region.y, region.height) for region in grid.painted] == [(4, 1)]
            grid.show([*table, Row("new", (Cell("n"), Cell("n")))])
            assert len(grid.rows) == 51

    asyncio.run(run())


def test_the_cursor_stays_on_its_row() -> None:
    table = [Row(str(n), (Cell(str(n)), Cell(""))) for n in range(50)]

    async def run() -> None:
        async with Lone().run_test(size=(40, 12)) as pilot:
            grid = pilot.app.query_one(Noting)
            grid.focus()
            grid.show(table)
            await pilot.press("down", "down")
            assert grid.at == "2"
            grid.show(table[::-1])
            assert grid.at == "2" and grid.place == 47
            grid.show(table)
            grid.show(table[3:])
            assert grid.at == "5", "its place: the third"
            await pilot.press("end")
            assert grid.at == "49" and grid.scroll_offset.y + grid.size.height >= 47
            grid.show([])
            await pilot.press("down")
            assert grid.at is None

    asyncio.run(run())
