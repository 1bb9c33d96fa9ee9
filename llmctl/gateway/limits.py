"""What a key may ask for: how often, how many tokens, how many at once, how many in a day or month. Pure: no clock."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from llmctl.errors import RequestError

DAY, MONTH = "day", "month"
PERIODS = (DAY, MONTH)


@dataclass(frozen=True)
class Allowed:
    """Limits of one key; None: none. `handles` are globs (none: all)."""

    handles: tuple[str, ...] = ()
    requests: int | None = None
    tokens: int | None = None
    parallel: int | None = None
    quota: int | None = None
    per: str = MONTH


@dataclass
class Bucket:
    """So many a minute, and no more than a minute's worth at once."""

    size: float
    left: float
    at: float

    def wait(self, wanted: float, now: float) -> float:
        """Seconds until `wanted` may be taken; 0.0: now. More than the size waits for a full bucket."""
        self.left = min(self.size, self.left + (now - self.at) * self.size / 60)
        self.at = now
        short = min(wanted, self.size) - self.left
        return short * 60 / self.size if short > 0 else 0.0


@dataclass
class Meter:
    """What one key has used. `spent` are tokens of `period` ("2030-01" or "2030-01-31"), `taken` those that the
    requests under way are taken for."""

    spent: int = 0
    period: str = ""
    active: int = 0
    taken: int = 0
    buckets: dict[str, Bucket] = field(default_factory=dict)

    def enter(self, allowed: Allowed, weight: int, now: float, today: datetime.date) -> None:
        """Count a request that begins; RequestError 429 says for how long none may. `weight` is what it may cost."""
        self._turn(allowed, today)
        if allowed.parallel is not None and self.active >= allowed.parallel:
            raise _refused(f"this key may have {allowed.parallel} requests at once", 1.0, "too_many_requests")
        if allowed.quota is not None and self.spent >= allowed.quota:
            left = seconds_left(allowed.per, today)
            raise _refused(
                f"this key has used its {allowed.quota:,} tokens of the {allowed.per}", left, "quota_exceeded"
            )
        if allowed.quota is not None and self.taken and self.spent + self.taken >= allowed.quota:
            raise _refused("requests under way may use up what is left of this key's tokens", 1.0, "quota_exceeded")
        wanted = {"requests": (allowed.requests, 1.0), "tokens": (allowed.tokens, float(weight))}
        for name, (size, count) in wanted.items():
            if size is not None and (wait := self._bucket(name, size, now).wait(count, now)) > 0:
                raise _refused(f"this key may have {size:,} {name} a minute", wait, "rate_limit_exceeded")
        for name, (size, count) in wanted.items():
            if size is not None:
                self._bucket(name, size, now).left -= count
        self.active += 1
        self.taken += weight

    def leave(self, allowed: Allowed, weight: int, used: int, now: float, today: datetime.date) -> None:
        """It is over, and cost so much."""
        self._turn(allowed, today)
        self.active -= 1
        self.taken -= weight
        self.spent += used
        if allowed.tokens is not None:
            self._bucket("tokens", allowed.tokens, now).left += weight - used

    def _bucket(self, name: str, size: int, now: float) -> Bucket:
        found = self.buckets.get(name)
        if found is None or found.size != size:
            found = self.buckets[name] = Bucket(size, size, now)
        return found

    def _turn(self, allowed: Allowed, today: datetime.date) -> None:
        period = period_of(allowed.per, today)
        if period != self.period:
            self.period, self.spent = period, 0


def period_of(per: str, today: datetime.date) -> str:
    return today.isoformat() if per == DAY else f"{today:%Y-%m}"


def seconds_left(per: str, today: datetime.date) -> float:
    """From the beginning of `today` to the end of its day or month, at least a minute."""
    if per == DAY:
        end = today + datetime.timedelta(days=1)
    else:
        end = (today.replace(day=28) + datetime.timedelta(days=4)).replace(day=1)
    return max(60.0, (end - today).total_seconds())


def _refused(message: str, wait: float, code: str) -> RequestError:
    return RequestError(message, status=429, code=code, details={"retry_after": wait})
