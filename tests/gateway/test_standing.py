"""When a replica rests, and when it is asked again."""

from __future__ import annotations

from llmctl.gateway.standing import FAILURES, FIRST, MOST, Standing


def test_one_failure_is_no_reason_to_rest_two_are() -> None:
    one = Standing().failed(10.0, "reset")
    assert not one.resting and one.why == "reset"
    two = one.failed(11.0, "reset")
    assert two.resting and not two.due(11.0 + FIRST - 0.1) and two.due(11.0 + FIRST)
    assert not one.answered().failed(12.0, "reset").resting


def test_each_rest_is_twice_as_long_up_to_a_minute() -> None:
    standing, pauses = Standing(), []
    now = 0.0
    for _ in range(10):
        standing = standing.failed(now, "x")
        pauses.append(standing.until and standing.until - now)
        now = standing.until or now
    assert pauses[:4] == [None, 2.0, 4.0, 8.0] and pauses[-1] == MOST


def test_a_hundred_requests_that_fail_at_once_are_one_failure() -> None:
    standing = Standing()
    for _ in range(100):
        standing = standing.failed(5.0, "reset")
    assert standing.until == 5.0 + FIRST and standing.rests == 1


def test_a_probe_that_fails_counts_for_two() -> None:
    assert Standing().failed(0.0, "x", FAILURES).resting


def test_an_answer_forgets_it_all() -> None:
    standing = Standing().failed(0.0, "x").failed(0.0, "x")
    assert standing.answered() == Standing()
