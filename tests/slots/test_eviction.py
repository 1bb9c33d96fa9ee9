"""Which models go so that another fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import Busy, DoesNotFit
from llmctl.slots.eviction import Holder, Space, victims


def one(port: int, size: int, unused: float = 0.0, **fields: Any) -> Holder:
    return Holder(
        port, f"m{port}", **{"measured": size, "reserved": size, "unused": unused, "evictable": True} | fields
    )


def ports(*found: Holder, needed: int = 10, free: int = 0, budget: int = 0, exclusive: str | None = None) -> list[int]:
    return [holder.port for holder in victims(needed, Space(free, budget or free), found, exclusive)]


def test_nobody_goes_where_it_fits() -> None:
    assert ports(one(1, 100), free=10) == []


def test_the_longest_unused_goes_first_and_no_more_than_needed() -> None:
    assert ports(one(1, 10, 5.0), one(2, 10, 50.0), one(3, 10, 500.0)) == [3]
    assert ports(one(1, 4, 5.0), one(2, 4, 50.0), one(3, 4, 500.0), needed=8) == [3, 2]
    assert ports(one(1, 20, 5.0), one(2, 4, 500.0)) == [1], "the small one would not be enough, and is not needed"


def test_both_the_memory_and_the_budget_must_have_room() -> None:
    thin, thick = one(1, 10, 500.0, measured=1), one(2, 10, 5.0)
    assert ports(thin, thick, free=5, budget=100) == [2], "what was reserved for the first is not what it has"
    assert ports(thin, thick, free=100, budget=5) == [1]
    with pytest.raises(DoesNotFit, match=r"free 5.0 MB, left of the budget 90.0 MB"):
        victims(10**7, Space(5 * 10**6, 9 * 10**7), [one(1, 10**6)])


@pytest.mark.parametrize("fields", [{"busy": "answering 1"}, {"evictable": False}])
def test_busy_and_pinned_ones_stay(fields: dict[str, Any]) -> None:
    assert ports(one(1, 50, 500.0, **fields), one(2, 50)) == [2]


def test_who_is_at_work_is_waited_for_only_where_that_helps() -> None:
    with pytest.raises(Busy, match=r"port 1 has m1, .* is answering 2") as caught:
        ports(one(1, 50, busy="answering 2"), one(2, 5))
    assert caught.value.port == 1
    with pytest.raises(DoesNotFit, match=r"needs 0.1 MB, .*gives 0.0 MB \(stay: 3 m3\)") as refused:
        ports(one(1, 50, busy="answering 2"), one(3, 10**6, evictable=False), needed=10**5)
    assert refused.value.details == {"needed": 10**5, "free": 0, "budget": 0, "evictable": 50}


def test_of_an_exclusive_group_the_others_go_even_where_there_is_room() -> None:
    group: dict[str, Any] = {"exclusive": "big"}
    assert ports(one(1, 5, **group), one(2, 5), free=100, exclusive="big") == [1]
    assert ports(one(1, 5, **group), one(2, 5), exclusive="big") == [1, 2]
    assert ports(one(1, 5, **group), free=100) == []
    with pytest.raises(Busy, match=r"port 1 has m1, .* is answering"):
        ports(one(1, 5, busy="answering 1", **group), free=100, exclusive="big")
    with pytest.raises(DoesNotFit, match=r"port 1 has m1, which is of the same group big, and may not be unloaded"):
        ports(one(1, 5, evictable=False, **group), free=100, exclusive="big")


HOLDERS = st.lists(
    st.builds(
        Holder, st.integers(1, 99), st.just("m"), st.integers(0, 50), st.integers(0, 50), st.floats(0, 99),
        st.booleans(), st.sampled_from(["", "answering 1"]),
    ), max_size=6, unique_by=lambda holder: holder.port,
)  # fmt: skip


@given(HOLDERS, st.integers(0, 200), st.integers(0, 200), st.integers(0, 200))
def test_what_goes_is_enough_and_each_of_them_is_needed(
    found: list[Holder], needed: int, free: int, budget: int
) -> None:
    space, may = Space(free, budget), [holder for holder in found if holder.evictable]
    idle = [holder for holder in may if not holder.busy]
    try:
        gone = victims(needed, space, found)
    except DoesNotFit:
        assert not space.fits(needed, may)
        return
    except Busy:
        assert space.fits(needed, may) and not space.fits(needed, idle)
        return
    assert all(holder in idle for holder in gone) and space.fits(needed, gone)
    assert all(not space.fits(needed, [other for other in gone if other is not holder]) for holder in gone)
