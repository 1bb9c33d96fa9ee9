"""Charts and strips, from values to coordinates."""

from __future__ import annotations

from llmctl.web import charts


def text(value: float) -> str:
    return f"{value:g}"


def test_a_line_goes_from_corner_to_corner() -> None:
    found = charts.line("queue", [(0.0, 0.0), (50.0, 5.0), (100.0, 10.0)], 0.0, 100.0, text)
    assert found.paths == ("M0.0 96.0L300.0 50.3L600.0 4.6",) and not found.dots
    assert (found.top, found.last, found.median, found.count) == ("10", "10", "5", 3)


def test_a_line_is_broken_where_nothing_was_seen() -> None:
    points = [(float(at), 1.0) for at in (0, 10, 20, 60, 70, 100)]
    found = charts.line("queue", points, 0.0, 100.0, text)
    assert [path.count("L") for path in found.paths] == [2, 1]
    assert [x for x, _ in found.dots] == ["600.0"]


def test_a_chart_of_nothing_and_of_zeros() -> None:
    assert "nothing was measured" in charts.line("queue", [], 0.0, 100.0, text).summary
    flat = charts.line("queue", [(0.0, 0.0), (100.0, 0.0)], 0.0, 100.0, text)
    assert flat.paths == ("M0.0 96.0L600.0 96.0",) and "at most 0" in flat.summary


def test_a_point_outside_stays_within_the_box() -> None:
    found = charts.line("queue", [(-50.0, 1.0), (500.0, 1.0)], 0.0, 100.0, text)
    assert found.paths[0].startswith("M0.0 ") and "L600.0 " in found.paths[0]


def test_neighbours_of_one_kind_are_one_span() -> None:
    spans = charts.strip(["up", "up", "down", "up"], 0.0, 400.0, text)
    assert [(span.kind, span.x, span.width) for span in spans] == [
        ("up", "0.0", "300.0"), ("down", "300.0", "150.0"), ("up", "450.0", "150.0"),
    ]  # fmt: skip
    assert spans[1].what == "down, 200 to 300"
    assert charts.strip([], 0.0, 1.0, text) == ()
