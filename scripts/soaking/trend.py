"""Does it grow? The slope of a series and how sure it is, robust against outliers, and what is to be thought of it.

The slope is the median of those of all pairs of points (Theil 1950, Sen 1968); its 95 % interval follows from
Kendall's variance. Points are medians of blocks, since samples that follow each other are no independent ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Z = 1.96
FEWEST = 4
MET, BROKEN, UNDECIDED = "met", "broken", "undecided"


@dataclass(frozen=True)
class Trend:
    """Units an hour; `low` and `high` bound it, infinite where there are too few points. `begin` and `end` are the
    medians of the first and the last third."""

    slope: float
    low: float
    high: float
    begin: float
    end: float
    hours: float


@dataclass(frozen=True)
class Row:
    """One figure of the report: what it was, in words, and whether its limit held."""

    what: str
    seen: str
    limit: str
    verdict: str


def blocks(points: Sequence[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """The median of each block of so many seconds, at its middle; `points` are (seconds, value)."""
    found: dict[int, list[float]] = {}
    for at, value in points:
        found.setdefault(int(at // seconds), []).append(value)
    return [((block + 0.5) * seconds, statistics.median(values)) for block, values in sorted(found.items())]


def trend(points: Sequence[tuple[float, float]]) -> Trend:
    """Of (seconds, value) in order; at least one."""
    values = [value for _, value in points]
    third = max(1, len(values) // 3)
    begin, end = statistics.median(values[:third]), statistics.median(values[-third:])
    hours = (points[-1][0] - points[0][0]) / 3600
    slopes = sorted(
        (b - a) / (later - at) * 3600 for i, (at, a) in enumerate(points) for later, b in points[i + 1 :] if later > at
    )
    if len(points) < FEWEST:
        return Trend(statistics.median(slopes) if slopes else 0.0, -math.inf, math.inf, begin, end, hours)
    n = len(points)
    spread = Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    last = len(slopes) - 1
    low = slopes[max(0, math.floor((len(slopes) - spread) / 2))]
    high = slopes[min(last, math.ceil((len(slopes) + spread) / 2))]
    return Trend(statistics.median(slopes), low, high, begin, end, hours)


def verdict(low: float, high: float, limit: float) -> str:
    """Broken or met where the whole interval says so."""
    return BROKEN if low > limit else MET if high <= limit else UNDECIDED


def memory(what: str, points: Sequence[tuple[float, float]], limit: float = 1e6) -> Row:
    """Bytes that may grow by `limit` an hour."""
    found = trend(points)
    sure = f" ({found.low / 1e6:+.2f} to {found.high / 1e6:+.2f})" if math.isfinite(found.low) else ""
    seen = f"{found.begin / 1e6:.1f} → {found.end / 1e6:.1f} MB, {found.slope / 1e6:+.2f} MB/h{sure}"
    return Row(what, seen, f"≤ {limit / 1e6:g} MB/h", verdict(found.low, found.high, limit))


def flat(what: str, points: Sequence[tuple[float, float]]) -> Row:
    """A count that may go up and down, and must not have risen by one at the end."""
    found = trend(points)
    rise = [slope * found.hours for slope in (found.low, found.high)]
    values = [value for _, value in points]
    seen = f"{found.begin:g} → {found.end:g} ({min(values):g} to {max(values):g})"
    if len(set(values)) == 1 and len(values) >= FEWEST:
        return Row(what, seen, "flat", MET)
    judged = BROKEN if rise[0] >= 1 else MET if rise[1] < 1 else UNDECIDED
    return Row(what, seen, "flat", judged)


def drift(what: str, points: Sequence[tuple[float, float, str]], limit: float = 0.1) -> Row:
    """How far (seconds, value, of which model) moved from begin to end, as a share; each model by its own median."""
    usual: Mapping[str, float] = {
        name: statistics.median(value for _, value, one in points if one == name)
        for name in {one for *_, one in points}
    }
    found = trend([(at, value / usual[name]) for at, value, name in points])
    low, high = (slope * found.hours for slope in (found.low, found.high))
    told = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in sorted(usual.items()))
    sure = f" ({low:+.0%} to {high:+.0%})" if math.isfinite(low) else ""
    return Row(what, f"{told}; {found.slope * found.hours:+.0%}{sure}", f"≤ {limit:.0%}", verdict(low, high, limit))


def at_most(what: str, seen: float, limit: float, unit: str = "") -> Row:
    """A figure that must not pass its limit at any time."""
    return Row(what, f"{seen:.3g}{unit}", f"≤ {limit:g}{unit}" if limit else "0", MET if seen <= limit else BROKEN)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
