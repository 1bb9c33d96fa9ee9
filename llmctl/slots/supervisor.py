"""What to do when an engine ends: pure decisions, tested with values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CRASHES = 5
WINDOW = 600.0
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
LONGEST_SPARE_DELAY = 600.0


@dataclass(frozen=True)
class Restart:
    """Start the desired model again after `delay` seconds."""

    delay: float


@dataclass(frozen=True)
class GiveUp:
    """Stop trying: `crashes` crashes within the window is a crash loop."""

    crashes: int


def after_crash(crashes: Sequence[float], now: float) -> Restart | GiveUp:
    """The next move after the crash at `crashes[-1]`; times in seconds. Delay doubles, the CRASHESth crash gives up."""
    count = recent(crashes, now)
    if count >= CRASHES:
        return GiveUp(count)
    return Restart(min(FIRST_DELAY * 2 ** max(0, count - 1), LONGEST_DELAY))


def recent(crashes: Sequence[float], now: float) -> int:
    """How many of `crashes` lie within the last WINDOW seconds."""
    return sum(now - at <= WINDOW for at in crashes)


def spare_delay(ended: int) -> float:
    """Seconds until the next spare, after `ended` in a row that went by themselves."""
    return float(min(2 ** (ended - 1), LONGEST_SPARE_DELAY))


def retry_after(expected: float, waited: float) -> int:
    """Whole seconds a refused client should wait: what is left of an expected load, 1 to 120."""
    return int(min(120, max(1, round(expected - waited))))


def queue_timeout(configured: float, last_load: float) -> float:
    """How long a request may wait for an engine: the configured time or three times the last load, the larger."""
    return max(configured, 3 * last_load)


def is_wedged(active: int, silent_for: float, stall: float) -> bool:
    """An engine with work that has shown no progress for `stall` seconds is wedged, however alive its process is."""
    return active > 0 and silent_for > stall


def idle_due(idle_unload: float | None, active: int, waiting: int, idle_for: float) -> bool:
    """Time to put the engine to sleep."""
    return idle_unload is not None and active == 0 and waiting == 0 and idle_for >= idle_unload
