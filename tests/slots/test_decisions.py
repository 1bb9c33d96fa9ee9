"""The pure decisions: admission, crash policy, probe."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from llmctl.domain import LENGTH, STOP, Probe
from llmctl.errors import DoesNotFit
from llmctl.slots.admission import NEW_FIRST, OLD_FIRST, Ledger, Room, decide
from llmctl.slots.probe import Answer, fault, pieces
from llmctl.slots.supervisor import CRASHES, WINDOW, GiveUp, Restart, after_crash, idle_due, is_wedged, queue_timeout

GB = 10**9


@pytest.mark.parametrize(
    ("needed", "room", "order", "expected"),
    [
        (4, Room(free=10 * GB, budget=20 * GB), "auto", NEW_FIRST),
        (4 * GB, Room(free=3 * GB, budget=20 * GB, current=4 * GB, resident=4 * GB), "auto", OLD_FIRST),
        (4 * GB, Room(free=30 * GB, budget=7 * GB, current=4 * GB, resident=4 * GB), "auto", OLD_FIRST),
        (4 * GB, Room(free=30 * GB, budget=20 * GB, current=4 * GB), OLD_FIRST, OLD_FIRST),
    ],
)
def test_the_order_follows_from_memory(needed: int, room: Room, order: str, expected: str) -> None:
    assert decide(needed, room, order) == expected


@pytest.mark.parametrize(
    ("room", "order"),
    [
        (Room(free=3 * GB, budget=20 * GB), "auto"),
        (Room(free=30 * GB, budget=20 * GB, reserved=17 * GB), "auto"),  # what is mapped does not show in free
        (Room(free=3 * GB, budget=20 * GB, current=4 * GB, resident=4 * GB), NEW_FIRST),
    ],
)
def test_f14_what_does_not_fit_is_refused_with_the_numbers(room: Room, order: str) -> None:
    with pytest.raises(DoesNotFit, match=r"needs 4\.00 GB, has 3\.00 GB") as caught:
        decide(4 * GB, room, order)
    assert caught.value.details["needed"] == 4 * GB and caught.value.hint


def test_the_ledger_counts_other_slots_and_forgets_the_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    key, order = ledger.reserve(8101, 6 * GB, free=50 * GB, budget=10 * GB, resident=0)
    assert order == NEW_FIRST
    with pytest.raises(DoesNotFit):
        ledger.reserve(8102, 6 * GB, free=50 * GB, budget=10 * GB, resident=0)
    second, order = ledger.reserve(8101, 7 * GB, free=50 * GB, budget=10 * GB, resident=0)
    assert order == OLD_FIRST
    with pytest.raises(DoesNotFit):  # during old-first the larger of the two stays reserved: 7 of 10
        ledger.reserve(8102, 4 * GB, free=50 * GB, budget=10 * GB, resident=0)
    ledger.settle(second, 7 * GB, key)
    ledger.reserve(8102, 3 * GB, free=50 * GB, budget=10 * GB, resident=0)
    monkeypatch.setenv("LLMCTL_BOOT_ID", "another-boot")
    from llmctl import processes

    processes.boot_id.cache_clear()
    try:
        assert ledger.reserve(8103, 9 * GB, free=50 * GB, budget=10 * GB, resident=0)[1] == NEW_FIRST
    finally:
        monkeypatch.undo()
        processes.boot_id.cache_clear()


def test_f01_delays_double_and_the_fifth_crash_gives_up() -> None:
    crashes: list[float] = []
    seen = []
    for i in range(CRASHES):
        crashes.append(float(i))
        seen.append(after_crash(crashes, float(i)))
    assert seen == [Restart(0.5), Restart(1.0), Restart(2.0), Restart(4.0), GiveUp(5)]
    assert after_crash(crashes, WINDOW + 100) == Restart(0.5)


def test_small_policies() -> None:
    assert is_wedged(1, 121, 120) and not is_wedged(0, 1e9, 120) and not is_wedged(1, 119, 120)
    assert idle_due(10, 0, 0, 10) and not idle_due(None, 0, 0, 1e9) and not idle_due(10, 1, 0, 11)
    assert not idle_due(10, 0, 1, 11)
    assert queue_timeout(120, 30) == 120 and queue_timeout(120, 100) == 300


def answer(text: str = "a b c d e f g h", ids: tuple[int, ...] = tuple(range(8)), finish: str = LENGTH) -> Answer:
    return Answer(text, ids, (-0.5,) * len(ids), finish)


@pytest.mark.parametrize(
    ("text", "sane"),
    [
        ("A port on a host that holds at most one model.", True),
        ("スロットはホスト上のポートです。", True),
        ("the the the the the the the the the the", False),
        ("!!!!!!!!!!!!!!!!", False),
        ("ok", False),
        ("", False),
    ],
)
def test_words_stand_for_the_ids_that_a_server_does_not_tell(text: str, sane: bool) -> None:
    assert (fault(Probe(), [Answer(text, pieces(text), (), STOP)] * 2) is None) is sane


@pytest.mark.parametrize(
    ("probe", "answers", "why"),
    [
        (Probe(), [answer(), answer()], None),
        (Probe(expect="port"), [answer("A Port.", (1, 2), STOP)] * 2, None),
        (Probe(), [answer(), answer("a b c d e f g i")], "differ"),
        (Probe(), [answer(), answer(ids=(*range(7), 9))], "differ"),
        (Probe(), [Answer("x y", (1, 2), (-1.0, math.nan), LENGTH)] * 2, "not finite"),
        (Probe(expect="Paris"), [answer()] * 2, "expected 'Paris'"),
        (Probe(), [answer("a b", (1, 2), STOP)] * 2, "only 2 tokens"),
        (Probe(expect="a"), [answer("a b", (1, 2), LENGTH)] * 2, "only 2 tokens"),
        (Probe(), [answer("  ", tuple(range(9)))] * 2, "empty text"),
        (Probe(), [answer("zzz", (5,) * 6 + (1, 2))] * 2, "token 5 is 6 of 8"),
    ],
)  # fmt: skip
def test_sane_is_what_decisions_say(probe: Probe, answers: list[Answer], why: str | None) -> None:
    found = fault(probe, answers)
    assert found is None if why is None else why in str(found)
