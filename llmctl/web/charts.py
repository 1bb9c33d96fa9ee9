"""Charts of a slot's past: from moments and values to the coordinates of an SVG, no drawing in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 600.0, 96.0
GAP = 2.5
"""A line is broken where nothing was seen for so many times the usual distance of two points."""

Point = tuple[float, float]
"""A moment (epoch seconds) and a value."""


@dataclass(frozen=True)
class Chart:
    """A line over time. `paths` are SVG path data in a box of WIDTH × HEIGHT, `dots` points that stand alone; the
    figures beside it are texts already."""

    title: str
    paths: tuple[str, ...]
    dots: tuple[tuple[str, str], ...]
    top: str
    last: str
    median: str
    count: int

    @property
    def summary(self) -> str:
        """What is to be seen, in words."""
        if not self.count:
            return f"{self.title}: nothing was measured in this time"
        return f"{self.title}: {self.count} measurements, last {self.last}, median {self.median}, at most {self.top}"


@dataclass(frozen=True)
class Span:
    """A piece of a strip: where it begins and how wide it is, what it stands for, and when."""

    x: str
    width: str
    kind: str
    what: str


def line(title: str, points: Sequence[Point], since: float, until: float, text: Callable[[float], str]) -> Chart:
    """The chart of `points`, in order of time; `text` makes a figure of a value."""
    if not points:
        return Chart(title, (), (), "", "", "", 0)
    values = sorted(value for _, value in points)
    top = values[-1] * 1.05 or 1.0
    scaled = [(_x(at, since, until), HEIGHT - HEIGHT * max(0.0, value) / top) for at, value in points]
    steps = sorted(b[0] - a[0] for a, b in pairwise(scaled))
    usual = steps[len(steps) // 2] if steps else 0.0
    runs: list[list[Point]] = [[scaled[0]]]
    for before, here in pairwise(scaled):
        if here[0] - before[0] > GAP * usual:
            runs.append([])
        runs[-1].append(here)
    paths = tuple("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run) for run in runs if len(run) > 1)
    dots = tuple((f"{run[0][0]:.1f}", f"{run[0][1]:.1f}") for run in runs if len(run) == 1)
    middle = values[len(values) // 2]
    return Chart(title, paths, dots, text(values[-1]), text(points[-1][1]), text(middle), len(points))


def strip(kinds: Sequence[str], since: float, until: float, when: Callable[[float], str]) -> tuple[Span, ...]:
    """Neighbours of one kind as one span; `kinds` are buckets of one length, from `since` to `until`."""
    spans: list[Span] = []
    begin = 0
    for end in range(1, len(kinds) + 1):
        if end == len(kinds) or kinds[end] != kinds[begin]:
            width = WIDTH / len(kinds)
            moments = [since + (until - since) * at / len(kinds) for at in (begin, end)]
            what = f"{kinds[begin]}, {when(moments[0])} to {when(moments[1])}"
            spans.append(Span(f"{begin * width:.1f}", f"{(end - begin) * width:.1f}", kinds[begin], what))
            begin = end
    return tuple(spans)


def _x(at: float, since: float, until: float) -> float:
    return WIDTH * min(1.0, max(0.0, (at - since) / ((until - since) or 1.0)))
