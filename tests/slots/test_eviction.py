"""Which models go so that another fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import Busy, DoesNotFit
from llmctl.slots.eviction import Holder, victims


def one(port: int, size: int, unused: float = 0.0, **fields: object) -> Holder:
    return Holder(port, f"m{port}", size, unused, **{"evictable": True, **fields})  # type: ignore[arg-type]


def ports(*found: Holder, needed: int = 10, available: int = 0, exclusive: str | None = None) -> list[int]:
    return [holder.port for holder in victims(needed, available, found, exclusive)]


def test_nobody_goes_where_it_fits() -> None:
    assert ports(one(1, 100), available=10) == []


def test_the_longest_unused_goes_first_and_no_more_than_needed() -> None:
    assert ports(one(1, 10, 5.0), one(2, 10, 50.0), one(3, 10, 500.0)) == [3]
    assert ports(one(1, 4, 5.0), one(2, 4, 50.0), one(3, 4, 500.0), needed=8) == [3, 2]
    assert ports(one(1, 20, 5.0), one(2, 4, 500.0)) == [1], "the small one would not be enough, and is not needed"


@pytest.mark.parametrize("fields", [{"busy": "answering"}, {"evictable": False}])
def test_busy_and_pinned_ones_stay(fields: dict[str, object]) -> None:
    assert ports(one(1, 50, 500.0, **fields), one(2, 50)) == [2]
    with pytest.raises(DoesNotFit, match=r"needs 0.0 MB, has 0.0 MB, .*stay: 1 m1") as caught:
        ports(one(1, 50, **fields))
    assert caught.value.details == {"needed": 10, "available": 0, "evictable": 0}


def test_of_an_exclusive_group_the_others_go_even_where_there_is_room() -> None:
    group = {"exclusive": "big"}
    assert ports(one(1, 5, **group), one(2, 5), available=100, exclusive="big") == [1]
    assert ports(one(1, 5, **group), one(2, 5), exclusive="big") == [1, 2]
    assert ports(one(1, 5, **group), available=100) == []
    with pytest.raises(Busy, match="port 1 has m1 of the same group big, and is answering"):
        ports(one(1, 5, busy="answering", **group), available=100, exclusive="big")
    with pytest.raises(Busy, match="may not be unloaded"):
        ports(one(1, 5, evictable=False, **group), available=100, exclusive="big")


HOLDERS = st.lists(
    st.builds(
        Holder, st.integers(1, 99), st.just("m"), st.integers(0, 50), st.floats(0, 99), st.booleans(),
        st.sampled_from(["", "answering"]),
    ), max_size=6, unique_by=lambda holder: holder.port,
)  # fmt: skip


@given(HOLDERS, st.integers(0, 200), st.integers(0, 200))
def test_what_goes_is_enough_and_each_of_them_is_needed(found: list[Holder], needed: int, available: int) -> None:
    able = [holder for holder in found if holder.evictable and not holder.busy]
    try:
        gone = victims(needed, available, found)
    except DoesNotFit:
        assert sum(holder.bytes for holder in able) + available < needed
        return
    freed = sum(holder.bytes for holder in gone)
    assert (all(holder in able for holder in gone) and freed + available >= needed) or not gone
    assert all(freed - holder.bytes + available < needed for holder in gone)
