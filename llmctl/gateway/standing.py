"""Whether a replica may be asked: after failures it rests, longer each time, and a probe brings it back. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST, MOST = 2.0, 60.0
"""Seconds that it rests after the first failure, and at most."""
FAILURES = 2
"""In a row, from which on it rests: one may be the end of a connection."""


@dataclass(frozen=True)
class Standing:
    """One replica. `until` is when it may be probed again; None: it is asked like any other."""

    failures: int = 0
    rests: int = 0
    until: float | None = None
    why: str = ""

    @property
    def resting(self) -> bool:
        return self.until is not None

    def failed(self, now: float, why: str, count: int = 1) -> Standing:
        """A failure that counts for so many. While it rests anyhow nothing more of them changes: a hundred requests
        that one end cost are no hundred failures."""
        failures = self.failures + count
        if failures < FAILURES or (self.until is not None and now < self.until):
            return replace(self, failures=failures, why=why)
        pause = min(MOST, FIRST * 2.0 ** min(self.rests, 16))
        return Standing(failures, self.rests + 1, now + pause, why)

    def answered(self) -> Standing:
        """A request, or a probe, was answered as it should be."""
        return Standing()

    def due(self, now: float) -> bool:
        """Whether to probe it now."""
        return self.until is not None and now >= self.until
