"""What is done about slots that are down, and what is left alone: values in, steps out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmctl.health import verdict
from llmctl.health.heal import GIVE_UP, LAST_GOOD, RESTART, START, WAIT, Healed, Patient, Step, steps
from llmctl.health.seen import Generation, SlotSeen, Unit
from llmctl.health.settings import HealSettings, Part, Settings
from llmctl.health.verdict import Baseline, Judged

NOW = 1_000_000.0
WEDGED = SlotSeen(8101, "alpha", "ready", model="alpha", server=True, generation=Generation(why="no token within 30 s"))
MINUTE = 60.0


def patient(seen: SlotSeen = WEDGED, host: str = "box", opened: float | None = NOW, **changed: Any) -> Patient:
    """A slot with the verdict that it gets."""
    seen = replace(seen, **changed)
    return Patient(host, seen, verdict.slot(host, seen, Baseline()), at=NOW, since=opened)


def did(action: str, ago: float, port: int = 8101, host: str = "box") -> Healed:
    return Healed(host, port, NOW - ago, action)


def one(seen: Patient, *before: Healed, settings: Settings | None = None) -> Step:
    (step,) = steps([seen], before, settings or Settings(), NOW)
    return step


@pytest.mark.parametrize(
    "changed, action",
    [
        ({}, RESTART),
        ({"generation": Generation(why="gibberish", first=0.1)}, RESTART),
        ({"generation": None, "model": "beta"}, RESTART),
        ({"state": "crash-loop"}, RESTART),
        ({"state": "empty", "model": None}, RESTART),
        ({"state": "down", "server": False}, START),
        ({"state": "down", "server": False, "unit": Unit("systemd", True, "failed")}, START),
        ({"state": "down", "server": False, "unit": Unit("systemd", True, "activating")}, WAIT),
        ({"state": "backoff", "since": NOW - 30}, WAIT),
        ({"state": "starting", "since": NOW - 600}, WAIT),
        ({"state": "starting", "since": NOW - 901}, RESTART),
        ({"state": "starting", "since": NOW + 86400}, WAIT),
    ],
)
def test_what_is_done_at_first(changed: dict[str, Any], action: str) -> None:
    step = one(patient(**changed))
    assert (step.host, step.port, step.action) == ("box", 8101, action)
    assert step.why and step.does == (action in (RESTART, START))


@pytest.mark.parametrize(
    "changed",
    [
        {"state": "disabled", "disabled": "a new disk comes"},
        {"operation": "swap"},
        {"state": "swapping"},
        {"state": "sleeping", "generation": None},
        {"desired": None, "state": "empty", "model": None},
        {"generation": Generation(first=0.1, rate=20.0, tokens=8)},
    ],
)
def test_c4_what_is_skipped_or_well_is_left_alone(changed: dict[str, Any]) -> None:
    assert steps([patient(**changed)], [], Settings(), NOW) == []


@pytest.mark.parametrize("changed", [{"state": "swapping"}, {"operation": "load"}, {"disabled": "why"},
                                     {"state": "sleeping"}, {"state": "disabled"}, {"state": "stopping"}])  # fmt: skip
def test_c4_a_slot_under_change_is_not_touched_even_if_it_was_judged_down(changed: dict[str, Any]) -> None:
    wrong = replace(patient(), seen=replace(WEDGED, **changed), judged=patient().judged)
    assert wrong.judged.verdict == verdict.DOWN
    assert steps([wrong], [], Settings(), NOW) == []


def test_f9_a_partition_restarts_nothing() -> None:
    away = [
        replace(patient(host=f"h{n}"), judged=verdict.unknown("cannot be reached")) for n in range(20)
    ]  # fmt: skip
    assert steps(away, [], Settings(), NOW) == []
    weak = replace(patient(), judged=Judged(verdict.DEGRADED))
    assert steps([weak], [], Settings(), NOW) == []


@pytest.mark.parametrize(
    "ago, action",
    [([3], WAIT), ([5], RESTART), ([5, 10], WAIT), ([9, 14], RESTART), ([15, 24, 29], WAIT), ([17, 26, 31], LAST_GOOD)],
)  # fmt: skip
def test_each_try_waits_twice_as_long_and_the_last_good_model_comes_after_three(ago: list[float], action: str) -> None:
    ill = patient(opened=NOW - 40 * MINUTE, last_good="beta")
    step = one(ill, *(did(RESTART, minutes * MINUTE) for minutes in ago))
    assert step.action == action
    assert step.model == ("beta" if action == LAST_GOOD else None)


def test_why_it_waits_names_when_it_goes_on() -> None:
    step = one(patient(opened=NOW - 600), did(RESTART, 60))
    assert step.why == "restarted 1m00s ago; the next try is in 3m00s"


@pytest.mark.parametrize("given", [{"last_good": None}, {"off": True}])
def test_without_a_last_good_model_it_gives_up_and_says_what_to_type(given: dict[str, Any]) -> None:
    tries = [did(RESTART, minutes * MINUTE) for minutes in (30, 40, 45)]
    settings = Settings(heal=HealSettings(last_good="off" not in given))
    step = one(patient(opened=NOW - 3000, last_good=given.get("last_good", "beta")), *tries, settings=settings)
    assert (step.action, step.why) == (GIVE_UP, "restarted 3 times in vain; type llmctl logs box:8101")


def test_the_last_good_model_is_loaded_once_in_an_incident() -> None:
    ill = patient(opened=NOW - 5 * 3600, last_good="beta")
    assert one(ill, *(did(RESTART, 3600 * 2) for _ in range(3)), did(LAST_GOOD, 40 * MINUTE)).action == GIVE_UP
    later = one(ill, *(did(RESTART, 3600 * 2) for _ in range(3)), did(LAST_GOOD, 61 * MINUTE))
    assert (later.action, later.model) == (RESTART, None)
    assert "its last good model loaded in vain; once more" in later.why


def test_the_budget_of_an_hour_holds_over_incidents() -> None:
    before = [did(RESTART, minutes * MINUTE) for minutes in (20, 30, 40, 50)]
    fresh = patient(opened=NOW)
    assert one(fresh, *before).action == GIVE_UP
    assert "within 1h00m, and that is its budget" in one(fresh, *before).why
    assert one(fresh, *before[:3]).action == RESTART
    assert one(fresh, *(replace(healed, at=healed.at - 3600) for healed in before)).action == RESTART


def test_what_was_done_to_others_does_not_count() -> None:
    others = [did(RESTART, 10, port=8102), did(RESTART, 10, host="other")] * 5
    assert one(patient(), *others).action == RESTART


@pytest.mark.parametrize("days", [1, -1])
def test_f13_a_clock_that_jumped_blocks_no_healing(days: int) -> None:
    elsewhen = [did(RESTART, days * 86400.0)] * 9
    assert one(patient(opened=None), *elsewhen).action == RESTART


def test_many_down_at_once_are_healed_two_at_a_time_and_what_they_share_is_named() -> None:
    ill = [patient(port=8100 + n) for n in range(6)]
    found = steps(ill, [], Settings(), NOW)
    assert [step.action for step in found] == [RESTART, RESTART, *[WAIT] * 4]
    assert found[-1].why == "6 slots are down at once, all on box: look there first; 2 are healed in one run"
    assert len([step for step in steps(ill, [], Settings(most=4), NOW) if step.does]) == 4


@pytest.mark.parametrize(
    "second, said",
    [
        ({"desired": "alpha"}, "all with alpha: look"),
        ({"desired": "beta", "model": "beta"}, "all alike (wedged): look"),
        ({"desired": "beta", "model": "beta", "state": "crash-loop"}, ": one cause is likely"),
    ],
)
def test_the_cause_that_slots_of_several_hosts_share(second: dict[str, Any], said: str) -> None:
    ill = [patient(host="a"), patient(host="b", **second)]
    found = steps(ill, [], Settings(most=1), NOW)
    assert [step.action for step in found] == [RESTART, WAIT] and said in found[1].why


def test_those_that_only_wait_take_no_place_of_the_run() -> None:
    ill = [patient(port=8101, state="starting", since=NOW), patient(port=8102), patient(port=8103)]
    assert [step.action for step in steps(ill, [], Settings(), NOW)] == [WAIT, RESTART, RESTART]


def test_healing_that_is_switched_off_for_a_slot_leaves_it() -> None:
    settings = Settings(parts={("box", 8101): Part(heal=HealSettings(on=False))})
    assert [step.port for step in steps([patient(), patient(port=8102)], [], settings, NOW)] == [8102]


def test_nothing_is_done_where_nobody_knows_what_was_done_before() -> None:
    (step,) = steps([patient()], None, Settings(), NOW)
    assert step.action == WAIT and "cannot be read" in step.why
