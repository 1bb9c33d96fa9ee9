"""How large a pass is allowed to be."""

from __future__ import annotations

import pytest

from llmctl.engines.pace import FIRST, SMALLEST, Pace


def paced(rate: float) -> Pace:
    pace = Pace()
    pace.saw(1000, 1000 / rate)
    return pace


def test_nothing_is_known_before_the_first_pass() -> None:
    assert Pace().most(1024, 0, 1) == FIRST
    assert Pace().most(16, 0, 1) == 16


@pytest.mark.parametrize(
    ("running", "waiting", "tokens"),
    [(0, 1, 512), (1, 1, 512), (8, 1, 256), (8, 8, 512), (16, 4, 256), (4, 60, 512), (64, 0, 256)],
)
def test_the_more_wait_the_longer_a_pass_may_be(running: int, waiting: int, tokens: int) -> None:
    assert paced(160).most(1024, running, waiting) == tokens


def test_it_stays_between_what_is_worth_a_pass_and_what_the_engine_takes() -> None:
    assert paced(1).most(1024, 4, 1) == SMALLEST
    assert paced(1e6).most(1024, 4, 1) == 1024
    assert paced(1e6).most(16, 4, 1) == 16


def test_a_pass_of_few_tokens_teaches_nothing() -> None:
    pace = paced(160)
    pace.saw(SMALLEST - 1, 60.0)
    pace.saw(100, 0.0)
    assert pace.most(1024, 0, 1) == 512
