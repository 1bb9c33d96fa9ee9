"""What a key may ask for, by a clock of our own."""

from __future__ import annotations

import datetime

import pytest

from llmctl.errors import RequestError
from llmctl.gateway.limits import DAY, Allowed, Meter, period_of, seconds_left

TODAY = datetime.date(2030, 1, 31)


def refused(meter: Meter, allowed: Allowed, weight: int = 1, now: float = 0.0, today: datetime.date = TODAY) -> str:
    with pytest.raises(RequestError) as caught:
        meter.enter(allowed, weight, now, today)
    assert caught.value.status == 429 and caught.value.details["retry_after"] > 0
    return caught.value.code


def test_without_limits_nothing_is_refused() -> None:
    meter = Meter()
    for _ in range(1000):
        meter.enter(Allowed(), 10**6, 0.0, TODAY)


def test_so_many_requests_a_minute() -> None:
    meter, allowed = Meter(), Allowed(requests=60)
    for _ in range(60):
        meter.enter(allowed, 1, 0.0, TODAY)
    assert refused(meter, allowed) == "rate_limit_exceeded"
    meter.enter(allowed, 1, 1.0, TODAY)
    refused(meter, allowed, now=1.0)


def test_tokens_are_counted_as_estimated_and_then_as_used() -> None:
    meter, allowed = Meter(), Allowed(tokens=1000)
    meter.enter(allowed, 800, 0.0, TODAY)
    refused(meter, allowed, weight=300)
    meter.leave(allowed, 800, 100, 0.0, TODAY)
    meter.enter(allowed, 900, 0.0, TODAY)
    meter.enter(allowed, 5000, 60.0, TODAY)  # more than a minute's worth waits for a full minute


def test_so_many_at_once() -> None:
    meter, allowed = Meter(), Allowed(parallel=2)
    meter.enter(allowed, 1, 0.0, TODAY)
    meter.enter(allowed, 1, 0.0, TODAY)
    assert refused(meter, allowed) == "too_many_requests"
    meter.leave(allowed, 1, 1, 0.0, TODAY)
    meter.enter(allowed, 1, 0.0, TODAY)


def test_a_quota_turns_with_the_day_or_the_month() -> None:
    meter, allowed = Meter(), Allowed(quota=100)
    meter.enter(allowed, 1, 0.0, TODAY)
    meter.leave(allowed, 1, 100, 0.0, TODAY)
    assert refused(meter, allowed) == "quota_exceeded"
    meter.enter(allowed, 1, 0.0, datetime.date(2030, 2, 1))
    assert meter.spent == 0 and period_of(DAY, TODAY) == "2030-01-31"
    assert seconds_left(DAY, TODAY) == 86400 and seconds_left("month", TODAY) == 86400


def test_what_is_refused_counts_nowhere() -> None:
    meter, allowed = Meter(), Allowed(requests=1, tokens=100)
    refused_first = Allowed(requests=1, tokens=100, quota=0)
    refused(meter, refused_first)
    meter.enter(allowed, 100, 0.0, TODAY)
    assert meter.active == 1


def test_requests_under_way_cannot_go_over_a_quota_together() -> None:
    meter, allowed = Meter(), Allowed(quota=1000)
    meter.enter(allowed, 5000, 0.0, TODAY)  # one may: nobody knows what it will cost
    with pytest.raises(RequestError, match="under way") as caught:
        meter.enter(allowed, 1, 0.0, TODAY)
    assert caught.value.details["retry_after"] == 1.0, "not at the end of the month"
    meter.leave(allowed, 5000, 10, 0.0, TODAY)
    meter.enter(allowed, 500, 0.0, TODAY)
    meter.enter(allowed, 500, 0.0, TODAY)
    refused(meter, allowed)
