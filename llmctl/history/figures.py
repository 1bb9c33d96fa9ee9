"""Figures of what was: how long a slot was up, and how fast; pure."""

from __future__ import annotations

from collections.abc import Sequence

from llmctl.history.records import Percentiles

UP, DOWN = ("ok", "degraded"), ("down",)
"""What is neither (unknown, skipped) is time of which nothing can be said."""
LONGEST_GAP = 3600.0
"""Seconds for which a check speaks when no other follows."""


def uptime(checks: Sequence[tuple[float, str]], since: float, until: float) -> float | None:
    """The share of the known time in which a slot answered; `checks` are (moment, verdict), in order of time.

    A check speaks for the time until the next one. None when nothing is known.
    """
    up = known = 0.0
    ends = [*(at for at, _ in checks[1:]), until][: len(checks)]
    for (at, verdict), end in zip(checks, ends, strict=True):
        told = min(end, at + LONGEST_GAP, until) - max(at, since)
        if told > 0 and verdict in (*UP, *DOWN):
            known += told
            up += told if verdict in UP else 0.0
    return up / known if known else None


def percentiles(firsts: Sequence[float], rates: Sequence[float]) -> Percentiles:
    """Of times to the first token (the less the better) and tokens/s (the more the better)."""
    slow_last, slow_last_rates = sorted(firsts), sorted(rates, reverse=True)
    return Percentiles(
        _rank(slow_last, 50), _rank(slow_last, 95), _rank(slow_last_rates, 50), _rank(slow_last_rates, 95), len(firsts)
    )


def _rank(values: Sequence[float], percent: int) -> float | None:
    """The nearest rank."""
    return values[-(-len(values) * percent // 100) - 1] if values else None
