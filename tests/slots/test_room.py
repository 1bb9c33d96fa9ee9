"""Room for a model, made among real slots: what is measured decides, who works stays, a dry run tells it before."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmctl import files
from llmctl.domain import SlotSpec
from llmctl.errors import Busy, DoesNotFit
from llmctl.slots import room, verbs
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually

MB = 1_000_000
BUDGET = Launch(memory_budget=100 * MB)
"""Two of the models that these tests load fit into it, and not three."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot may go sooner than else."""
    monkeypatch.setattr(room, "REST", 0.3)


@pytest.fixture
def demand(script: Callable[..., SlotSpec]) -> Callable[..., SlotSpec]:
    """demand("a", …) → the spec of a scripted model that may go for others, and takes 40 MB."""

    def make(model: str, *, evictable: bool = True, exclusive: str | None = None, **play: Any) -> SlotSpec:
        return replace(script(model, needed=40 * MB, **play), evictable=evictable, exclusive=exclusive)

    return make


def rested(slot: RunningSlot) -> RunningSlot:
    """The slot once it may go."""
    eventually(lambda: slot.status().unused >= room.REST)
    return slot


def evicting(home: Path, port: int, spec: SlotSpec) -> tuple[verbs.ChangeResult, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    with room.made(home, port, spec, BUDGET, events.append) as told:
        return verbs.change(home, port, "load", spec, launch=BUDGET, on_event=told), events


def test_the_longest_unused_goes_and_its_slot_is_empty(
    slots: Callable[..., RunningSlot], demand: Callable[..., SlotSpec], home: Path
) -> None:
    one = rested(slots(demand("one"), BUDGET))
    two = rested(slots(demand("two"), BUDGET))
    three = slots(None, BUDGET)
    assert [holder.port for holder in room.needed(home, three.port, demand("three"), BUDGET)] == [one.port]
    result, events = evicting(home, three.port, demand("three"))
    assert result.state == "ready" and [slot.state() for slot in (one, two)] == ["empty", "ready"]
    assert any(f"{one.port}: unload one" in str(event.get("message")) for event in events)
    assert "make room" in [event.get("stage") for event in events]


def test_who_answers_or_did_so_just_now_is_not_cut(
    slots: Callable[..., RunningSlot], demand: Callable[..., SlotSpec], home: Path
) -> None:
    pinned, busy = slots(demand("pinned", evictable=False), BUDGET), slots(demand("busy", step=0.02, length=80), BUDGET)
    three, found = slots(None, BUDGET), list[int]()

    def ask() -> None:
        body = {"messages": [{"role": "user", "content": "x"}]}
        found.append(
            httpx.post(f"{busy.base_url}/v1/chat/completions", json=body, trust_env=False, timeout=60).status_code
        )

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: busy.status().active)
    with pytest.raises(Busy, match="answering 1") as caught:
        evicting(home, three.port, demand("three"))
    assert caught.value.port == busy.port
    asking.join()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Busy, match="used just now"):
        patch.setattr(room, "REST", 60.0)
        evicting(home, three.port, demand("three"))
    with pytest.raises(Busy, match=f"port {busy.port} was used"):
        verbs.unload(home, busy.port, unused=60.0)
    rested(busy)
    assert evicting(home, three.port, demand("three"))[0].state == "ready"
    assert found == [200] and (pinned.state(), busy.state()) == ("ready", "empty")
    with pytest.raises(DoesNotFit, match=f"stay: {pinned.port} pinned"):
        room.needed(home, busy.port, replace(demand("much"), needed_bytes=90 * MB), BUDGET)


def test_of_a_group_only_one_is_there_and_what_a_slot_holds_itself_counts(
    slots: Callable[..., RunningSlot], demand: Callable[..., SlotSpec], home: Path
) -> None:
    one, two = rested(slots(demand("one", exclusive="big"), BUDGET)), slots(None, BUDGET)
    evicting(home, two.port, demand("two", exclusive="big"))
    assert (one.state(), two.state()) == ("empty", "ready")
    larger = replace(demand("larger"), needed_bytes=80 * MB)
    assert room.needed(home, two.port, larger, BUDGET) == [], "the old model of the port itself goes first"
    with pytest.raises(DoesNotFit, match=r"left of the budget 60.0 MB"):
        room.needed(home, two.port, larger, BUDGET, "new-first")


def test_a_slot_without_an_engine_is_in_nobodys_way(
    slots: Callable[..., RunningSlot], demand: Callable[..., SlotSpec], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, loops, disabled, last = (slots(None, BUDGET) for _ in range(4))
    down.change("load", demand("down", exclusive="big"))
    down.kill()
    loops.change("load", demand("loops", exclusive="big"))
    (home / "loops.script.json").write_text(json.dumps({"fail": "load"}))
    os.kill(loops.engine_pid() or 0, signal.SIGKILL)
    disabled.change("load", demand("disabled", evictable=False, exclusive="big"))
    verbs.disable(home, disabled.port, "for the test")
    eventually(lambda: loops.state() == "crash-loop")

    monkeypatch.setattr(room, "REST", 600.0)
    assert room.needed(home, last.port, demand("last"), BUDGET) == []
    spec = demand("last", exclusive="big")
    assert {holder.port for holder in room.needed(home, last.port, spec, BUDGET)} == {down.port, loops.port}
    assert evicting(home, last.port, spec)[0].state == "ready"
    assert [slot.state() for slot in (down, loops, disabled)] == ["empty", "empty", "disabled"]
    assert disabled.folder.read_desired().spec, "it has its model to come back with"


def test_a_slot_server_that_answers_nobody_keeps_what_it_has(
    slots: Callable[..., RunningSlot], demand: Callable[..., SlotSpec], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmctl.slots.status.TIMEOUT", 1.0)
    one, two = slots(demand("one", exclusive="big"), BUDGET), slots(None, BUDGET)
    server = one.server_pid() or 0
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(Busy, match="is down"):
            room.needed(home, two.port, demand("two", exclusive="big"), BUDGET)
    finally:
        os.kill(server, signal.SIGCONT)


def test_others_wait_until_the_room_is_reserved(
    slots: Callable[..., RunningSlot], demand: Callable[..., SlotSpec], home: Path
) -> None:
    slot, seen = slots(None, BUDGET), list[str]()
    lock = home / "room.lock"

    def locked(event: dict[str, Any]) -> None:
        try:
            with files.locked(lock, wait=False):
                seen.append(str(event.get("stage")))
        except Busy:
            seen.append("locked")

    spec = demand("one", load=0.5)
    with room.made(home, slot.port, spec, BUDGET, locked) as told:
        with pytest.raises(Busy), files.locked(lock, wait=False):
            pass
        verbs.change(home, slot.port, "load", spec, launch=BUDGET, on_event=told)
    assert seen and "locked" not in seen, "a load that goes on has its reservation, and locks nobody out"


def test_a_dry_run_shows_who_would_go_and_what_that_gives(
    slots: Callable[..., RunningSlot], demand: Callable[..., SlotSpec], home: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from llmctl.__main__ import main

    one, two, three = rested(slots(demand("one"), BUDGET)), rested(slots(demand("two"), BUDGET)), slots(None, BUDGET)
    (tmp_path / "three.json").write_text(json.dumps({"needed": 40 * MB}))
    (tmp_path / "much.json").write_text(json.dumps({"needed": 400 * MB}))
    table = '[models.{0}]\nartifacts = [{{{{ format = "script", path = "{0}.json" }}}}]\n'
    (tmp_path / "models.toml").write_text("".join(table.format(name).format() for name in ("three", "much")))
    (tmp_path / "hosts.toml").write_text('[hosts.here]\nmemory_budget = "100MB"\n')
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "p.toml").write_text(
        f'[[slots]]\nport = {three.port}\nmodel = "three"\non_demand = true\n'
    )
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))

    assert main(["load", str(three.port), "three", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"with --evict unloads {one.port} one (has" in shown and "unused for" in shown and "that gives" in shown
    assert main(["--json", "load", str(three.port), "three", "--dry-run"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert [row["port"] for row in data["evicts"]] == [one.port] and data["evicts"][0]["bytes"] > MB
    assert main(["load", str(three.port), "much", "--dry-run"]) == 0
    assert "it would fail: needs 0.40 GB" in capsys.readouterr().out
    assert main(["profile", "load", "p", "--slot", f"here:{three.port}", "--dry-run"]) == 0
    assert f"unloads {one.port} one" in capsys.readouterr().out
    assert one.state() == two.state() == "ready" and three.state() == "empty"

    assert main(["load", str(three.port), "three"]) == 1
    assert "reserved by other slots" in capsys.readouterr().err
    assert main(["load", str(three.port), "three", "--evict"]) == 0
    assert (one.state(), two.state(), three.state()) == ("empty", "ready", "ready")
    assert main(["unload", str(two.port), "--unused", "1h"]) == 1
    assert "was used" in capsys.readouterr().err and two.state() == "ready"
