"""What is thought of a slot and of a host: a table of cases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmctl.health import fronting, verdict
from llmctl.health.seen import Generation, HostSeen, Sensor, SlotSeen, Unit
from llmctl.health.verdict import DEGRADED, DOWN, OK, SKIPPED, UNKNOWN, Baseline, Rules, exit_code

SAID = Generation(first=0.1, rate=50.0, tokens=24, seconds=0.6, model="m")
UNIT = Unit("systemd", True, "active")
GOOD = SlotSeen(8101, "m", "ready", model="m", server=True, unit=UNIT, queue_limit=100, generation=SAID, version="1.0")
USUAL = Baseline(first=0.1, rate=50.0)

SLOTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "all well": ({}, OK, ""),
    "no slot server": ({"server": False, "state": "down", "generation": None}, DOWN, "no slot server runs"),
    "crash loop": ({"state": "crash-loop", "why": "killed", "generation": None}, DOWN, "crash loop: killed"),
    "starting": ({"state": "starting", "generation": None}, DOWN, "starting"),
    "backoff": ({"state": "backoff", "generation": None}, DOWN, "backoff"),
    "wedged": ({"generation": Generation("no answer within 30 s")}, DOWN, "no answer within 30 s"),
    "insane": ({"generation": replace(SAID, why="it generates nothing")}, DOWN, "it generates nothing"),
    "another model": ({"model": "n"}, DOWN, "n serves, m is desired"),
    "busy": ({"generation": Generation("no answer within 30 s", busy=True), "active": 9}, DEGRADED, "busy with 9"),
    "slow to begin": ({"generation": replace(SAID, first=0.6)}, DEGRADED, "usually 0.10 s"),
    "not twice as slow": ({"generation": replace(SAID, first=0.19, rate=26.0)}, OK, ""),
    "slow, but short": ({"generation": replace(SAID, first=0.24)}, OK, ""),
    "slow tokens": ({"generation": replace(SAID, rate=20.0)}, DEGRADED, "usually 50.0"),
    "long queue": ({"queued": 80}, DEGRADED, "80 of 100 places"),
    "shorter queue": ({"queued": 79}, OK, ""),
    "crashes": ({"crashes": 2}, DEGRADED, "ended 2 times"),
    "unit not enabled": ({"unit": replace(UNIT, enabled=False)}, DEGRADED, "does not start at boot"),
    "unit failed beside a running server": ({"unit": replace(UNIT, active="failed")}, DEGRADED, "its unit is failed"),
    "no service manager": ({"unit": Unit("none", False, "unknown")}, OK, ""),
    "a swap": ({"operation": "swap", "generation": None}, SKIPPED, "swap is under way"),
    "a swap while asked": ({"operation": "swap", "generation": Generation("no answer")}, SKIPPED, "swap is under way"),
    "disabled": ({"state": "disabled", "disabled": "broken fan", "generation": None}, SKIPPED, "broken fan"),
    "asleep": ({"state": "sleeping", "model": None, "generation": None}, SKIPPED, "asleep"),
    "woken and well": ({"state": "sleeping"}, OK, ""),
    "unloaded": ({"state": "empty", "desired": None, "model": None, "generation": None}, SKIPPED, "no model"),
}  # fmt: skip


def replica(where: str, *handles: str, **said: Any) -> dict[str, Any]:
    return {"where": where, "handles": handles, "warm": True, "resting": False, "on_demand": False, "why": None, **said}


THROUGH = Generation(first=0.02, model="fast")
RESTS = {"resting": True, "warm": False, "why": "no answer"}
GATE = replace(
    GOOD, desired="gateway", model="gateway", engine="gateway", generation=THROUGH, queue_limit=0,
    replicas=(replica("a:8101", "fast"), replica("b:8101", "fast", "deep")),
)  # fmt: skip
GATEWAYS: dict[str, tuple[dict[str, Any], str, str]] = {
    "all well": ({}, OK, ""),
    "killed": ({"server": False, "state": "down", "generation": None, "replicas": ()}, DOWN, "no slot server runs"),
    "it does not answer itself": ({"generation": Generation("no answer within 30 s")}, DOWN, "no answer within 30 s"),
    "a handle does not answer through it": (
        {"generation": Generation("HTTP 503", model="fast")}, DEGRADED, "fast does not answer through it: HTTP 503"
    ),
    "nobody may be asked": ({"generation": Generation()}, OK, ""),
    "its files make no sense": ({"why": "it is no registry"}, DEGRADED, "it goes on as before: it is no registry"),
    "all slots of a handle rest": (
        {"replicas": (replica("a:8101", "fast"), replica("b:8101", "fast", "deep", **RESTS))},
        DEGRADED, "no slot answers for deep (b:8101: no answer)",
    ),
    "one of two rests": ({"replicas": (replica("a:8101", "fast"), replica("b:8101", "fast", **RESTS))}, OK, ""),
    "all slots rest, and it waits for one": (
        {"state": "starting", "generation": Generation(), "replicas": (replica("a:8101", "fast", **RESTS),)},
        DEGRADED, "no slot answers for fast",
    ),
    "a slot on demand that is not there": (
        {"replicas": (replica("a:8101", "fast"), replica("c:8101", "late", on_demand=True, **RESTS))}, OK, ""
    ),
    "slower than this handle was": ({"generation": replace(THROUGH, first=0.9)}, DEGRADED, "usually 0.10 s"),
    "its unit": ({"unit": replace(UNIT, enabled=False)}, DEGRADED, "does not start at boot"),
    "down on purpose": ({"state": "disabled", "disabled": "moving", "generation": None}, SKIPPED, "moving"),
}  # fmt: skip


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway(name: str) -> None:
    changes, expected, why = GATEWAYS[name]
    found = verdict.slot("h1", replace(GATE, **changes), USUAL)
    assert (found.verdict, why in found.why) == (expected, True), found
    assert len(found.findings) == (expected != OK), found
    if expected in (DOWN, DEGRADED):
        assert found.findings[0].fix.startswith("llmctl "), found


def test_only_a_handle_whose_slots_are_all_awake_is_asked() -> None:
    rows = [
        replica("a:1", "awake", "both"), replica("a:2", "awake", **RESTS), replica("a:3", "asleep", "both", warm=False),
        replica("a:4", "late", on_demand=True), replica("a:5", "gone", **RESTS), replica("a:6", "new"),
    ]  # fmt: skip
    assert fronting.to_ask(rows) == ["awake", "new"]


def test_handles_of_the_same_slots_are_told_together() -> None:
    rows = [replica("a:1", "deep", "beta", **RESTS), replica("b:1", "deep", "beta", "more", **RESTS)]
    assert list(fronting.without(rows)) == [
        (["deep", "beta"], "a:1: no answer; b:1: no answer"), (["more"], "b:1: no answer")
    ]  # fmt: skip


def test_figures_are_of_a_handle_and_not_of_the_gateway() -> None:
    assert (GATE.measured, replace(GATE, generation=Generation()).measured) == ("gateway/fast", "gateway")
    assert GOOD.measured == "m"


@pytest.mark.parametrize("name", SLOTS)
def test_a_slot(name: str) -> None:
    changes, expected, why = SLOTS[name]
    found = verdict.slot("h1", replace(GOOD, **changes), USUAL)
    assert (found.verdict, why in found.why) == (expected, True), found
    if expected in (DOWN, DEGRADED) and "queue" not in name and name != "busy":
        assert found.findings[0].fix.startswith("llmctl ") and found.findings[0].fix.endswith("h1:8101")


def test_the_worst_of_several_findings_is_the_verdict() -> None:
    found = verdict.slot("h1", replace(GOOD, model="n", crashes=3), USUAL)
    assert (found.verdict, [finding.verdict for finding in found.findings]) == (DOWN, [DOWN, DEGRADED])


def test_a_slot_that_is_down_during_a_deploy_is_left_alone() -> None:
    down = replace(GOOD, server=False, state="down", generation=None)
    assert verdict.slot("h1", down, USUAL, deploying="ann@desk").verdict == SKIPPED
    assert verdict.slot("h1", GOOD, USUAL, deploying="ann@desk").verdict == OK


def test_without_a_baseline_nothing_is_slow() -> None:
    slow = replace(GOOD, generation=replace(SAID, first=60.0, rate=0.1))
    assert verdict.slot("h1", slow, Baseline()).verdict == OK


def test_a_baseline_is_the_median_of_the_last_runs_and_wants_some() -> None:
    rules = Rules()
    assert Baseline.of([0.1] * 4, [50.0] * 4, rules) == Baseline()
    assert Baseline.of([9.0] * 30 + [0.1] * 20, [1.0] * 30 + [50.0] * 20, rules) == Baseline(0.1, 50.0)


HOST = HostSeen(
    at=1000.0, version="1.0", disk_free=10**11, disk_total=10**12, memory_free=8 * 10**9, memory_total=16 * 10**9
)
HOSTS: dict[str, tuple[dict[str, Any], str]] = {
    "all well": ({}, ""),
    "disk": ({"disk_free": 4 * 10**9}, "4.0 GB of disk left"),
    "memory": ({"memory_free": 7 * 10**8}, "700.0 MB of memory left"),
    "hot": ({"sensors": (Sensor("cpu", 96.0, 100.0),)}, "cpu has 96 °C of 100"),
    "warm": ({"sensors": (Sensor("cpu", 94.0, 100.0),)}, ""),
    "no limit known": ({"sensors": (Sensor("nvme", 120.0),)}, ""),
    "throttled": ({"sensors": (Sensor("gpu 0", 80.0, 90.0, throttled="power cap"),)}, "gpu 0 is throttled: power cap"),
    "dead": ({"sensors": (Sensor("gpu 0", dead="it answers ERR!"),)}, "gpu 0: it answers ERR!"),
    "clock fast": ({"at": 1061.0}, "clock is +61 s off"),
    "clock slow": ({"at": 939.0}, "clock is -61 s off"),
    "another version": ({"version": "0.9"}, "it runs llmctl 0.9, here is 1.0"),
    "drift": ({"drift": ("config/hosts.toml",)}, "changed since its deploy: config/hosts.toml"),
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_host(name: str) -> None:
    changes, why = HOSTS[name]
    found = verdict.host("h1", replace(HOST, **changes), 1000.0, "1.0")
    assert (found.verdict, why in found.why) == (DEGRADED if why else OK, True), found


def test_an_old_deploy_is_told_where_an_age_is_set() -> None:
    old = replace(HOST, manifest=1000.0 - 86400 * 2)
    assert verdict.host("h1", old, 1000.0, "1.0", Rules()).verdict == OK
    assert verdict.host("h1", old, 1000.0, "1.0", Rules(deploy_age=86400.0 * 3)).verdict == OK
    (found,) = verdict.host("h1", old, 1000.0, "1.0", Rules(deploy_age=86400.0)).findings
    assert found.why == "deployed 2d0h ago, and 1d0h is the most" and found.fix == "llmctl deploy h1"


def test_f9_a_host_that_nobody_reaches_is_unknown_not_down() -> None:
    assert verdict.unknown("h1 does not answer").verdict == UNKNOWN
    assert exit_code([UNKNOWN, OK]) == 3


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ((OK, OK), 0), ((OK, SKIPPED), 0), ((OK, DEGRADED), 3), ((UNKNOWN,), 3), ((DOWN, OK, UNKNOWN), 1),
        ((SKIPPED, SKIPPED), 5), ((), 5),
    ],
)  # fmt: skip
def test_the_exit_code(verdicts: tuple[str, ...], code: int) -> None:
    assert exit_code(verdicts) == code


def test_what_was_seen_survives_the_way() -> None:
    import json

    whole = replace(HOST, slots=(GOOD, replace(GOOD, unit=None, generation=None)), sensors=(Sensor("cpu", 50.0),))
    assert HostSeen.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    assert HostSeen.from_dict({**whole.to_dict(), "new": 1}) == whole
