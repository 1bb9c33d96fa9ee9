"""Whatever shows, asks or changes slots knows the gateway for what it is: a real one over real slots."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.conftest import eventually
from tests.gateway.around import DEEP, FAST, LATE, Machine, machine

__all__ = ["machine"]
Capture = pytest.CaptureFixture[str]


def row(envelope: dict[str, Any], port: int) -> dict[str, Any]:
    return next(dict(found) for found in envelope["data"]["slots"] if found["port"] == port)


# ── status ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_has_its_handles_and_the_slots_behind_it(machine: Machine, capsys: Capture) -> None:
    found = row(machine.llmctl(capsys, "status"), machine.ports["gateway"])
    assert (found["model"], found["engine"], found["state"]) == ("gateway", "gateway", "ready")
    assert set(found["handles"]) >= {FAST, DEEP, LATE}
    behind = {replica["where"]: replica for replica in found["replicas"]}
    assert FAST in behind[machine.where(FAST)]["handles"] and behind[machine.where(FAST)]["warm"]
    assert behind[machine.where(LATE)]["on_demand"]
    slot = row(machine.llmctl(capsys, "status"), machine.ports[FAST])
    assert slot["replicas"] == []


def test_people_see_how_many_handles_it_has_and_not_all_of_them(machine: Machine, capsys: Capture) -> None:
    code, out, _ = machine.shown(capsys, "status")
    (line,) = [line for line in out.splitlines() if f" {machine.ports['gateway']} " in line]
    count = len(machine.gateway.status().handles)
    assert code == 0 and f"{count} handles, 0 active" in line and DEEP not in line


# ── health ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def health(machine: Machine, capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    return row(machine.llmctl(capsys, "health", *words, code=code), machine.ports["gateway"])


def test_health_has_a_token_through_it_and_its_figures_are_of_that_handle(machine: Machine, capsys: Capture) -> None:
    from llmctl.history.store import History

    before = machine.slot(FAST).status().since
    found = health(machine, capsys)
    assert (found["verdict"], found["why"]) == ("ok", None) and found["first_token"] > 0
    asked = next(iter(machine.gateway.status().handles))
    with History.open(machine.home / "history.db", write=False) as history:
        firsts, _ = history.figures("here", machine.ports["gateway"], f"gateway/{asked}")
        assert len(firsts) == 1
        assert history.figures("here", machine.ports["gateway"], "gateway") == ([], [])
    assert machine.slot(FAST).status().since == before
    late = machine.llmctl(capsys, "status", machine.where("gateway"))["data"]["slots"][0]["replicas"]
    assert [one["warm"] for one in late if one["on_demand"]] == [False], "a health run has loaded it"


def test_f9_a_gateway_that_was_killed_is_down_and_healed(machine: Machine, capsys: Capture) -> None:
    machine.gateway.kill()
    found = health(machine, capsys, code=1)
    assert (found["verdict"], found["findings"][0]["code"]) == ("down", "no_server")
    found = health(machine, capsys, "--heal")
    assert (found["verdict"], found["healed"]) == ("ok", "restarted"), found
    machine.settled()
    kinds = [
        event["kind"]
        for event in machine.llmctl(capsys, "history", "--slot", machine.where("gateway"))["data"]["events"]
    ]
    assert [kind for kind in kinds if kind != "incident"] == ["load", "restart", "heal", "recovered"]  # fmt: skip


def test_a_registry_without_sense_degrades_it_and_it_goes_on(machine: Machine, capsys: Capture) -> None:
    path = machine.home / "gateway" / "registry.json"
    whole = path.read_text()
    try:
        path.write_text("{")
        eventually(lambda: machine.gateway.status().why)
        found = health(machine, capsys, code=3)
        assert (found["verdict"], found["findings"][0]["fix"]) == ("degraded", "llmctl handles check")
        assert found["first_token"] > 0
        _, out, _ = machine.shown(capsys, "status", machine.where("gateway"))
        assert "registry.json" in out
    finally:
        path.write_text(whole)
        eventually(lambda: not machine.gateway.status().why)


def test_a_handle_without_a_slot_degrades_it_and_nobody_restarts_it(machine: Machine, capsys: Capture) -> None:
    from llmctl.slots import verbs

    pid = machine.gateway.server_pid()
    verbs.disable(machine.home, machine.ports[DEEP], "new fan")
    os.kill(machine.slot(DEEP).server_pid() or 0, signal.SIGKILL)
    try:
        eventually(lambda: any(one["resting"] and DEEP in one["handles"] for one in machine.gateway.status().replicas))
        found = health(machine, capsys, "--heal", code=3)
        assert found["verdict"] == "degraded" and f"no slot answers for {DEEP} (" in found["why"]
        assert machine.gateway.server_pid() == pid
    finally:
        verbs.enable(machine.home, machine.ports[DEEP])
        machine.settled()
    assert health(machine, capsys)["verdict"] == "ok"
