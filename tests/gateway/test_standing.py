"""When a replica rests, and when it is asked again."""

from __future__ import annotations

from llmctl.gateway.standing import FIRST, MOST, Standing


def test_one_failure_is_no_reason_to_rest_two_are() -> None:
    one = Standing().failed(10.0, "reset")
    assert not one.resting and one.why == "reset"
    two = one.failed(11.0, "reset")
    assert two.resting and not two.due(11.0 + FIRST - 0.1) and two.due(11.0 + FIRST)
    assert not one.answered().failed(12.0, "reset").resting


def test_each_rest_is_twice_as_long_up_to_a_minute() -> None:
    standing, pauses = Standing(), []
    for _ in range(10):
        standing = standing.failed(0.0, "x")
        pauses.append(standing.until)
    assert pauses[:4] == [None, 2.0, 4.0, 8.0] and pauses[-1] == MOST


def test_an_answer_forgets_it_all() -> None:
    standing = Standing().failed(0.0, "x").failed(0.0, "x")
    assert standing.answered() == Standing()
