"""A model that two hosts compute together, over its life: swapped under load, killed, cut off."""

from __future__ import annotations

import pytest

from tests.spread.conftest import PORT, SPREAD, Fleet, Load

pytestmark = [pytest.mark.root, pytest.mark.models, pytest.mark.slow]
SLOT = f"h1:{PORT}"


def test_two_hosts_answer_as_one_does_and_swaps_lose_nothing(fleet: Fleet) -> None:
    fleet.says("load", SLOT, "tiny-llama", "--engine", "torch")
    alone = fleet.ask()
    with Load(fleet) as load:
        fleet.says("swap", SLOT, "tiny-llama", "--engine", "torch", *SPREAD)
        together = fleet.ask()
        fleet.says("swap", SLOT, "tiny-llama", "--engine", "mlx", *SPREAD)
        in_a_ring = fleet.ask()
    assert not load.failed
    assert together == in_a_ring == alone
    assert fleet.slot()["spread"] == ["h1", "h2"]
    assert len(fleet.ranks()) == 1
