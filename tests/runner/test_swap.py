"""Swaps under live traffic: nothing refused, reset or truncated (L6), in both orders; idle unload; upgrade."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError, LoadFailed, Refused
from llmctl.slots import verbs
from tests.clients import Traffic, chat, get
from tests.conftest import RunningSlot, eventually

Script = Callable[..., SlotSpec]
Slots = Callable[..., RunningSlot]


@pytest.mark.parametrize(("order", "swaps"), [("new-first", 70), ("old-first", 30)])
def test_l06_a_hundred_swaps_lose_nothing(slots: Slots, script: Script, order: str, swaps: int) -> None:
    models = [script("alpha", step=0.002), script("beta", step=0.002)]
    slot = slots(models[0])
    with Traffic(slot.port) as traffic:
        for i in range(swaps):
            result = slot.change("swap", models[(i + 1) % 2], order=order)
            served = traffic.served
            assert (result.order, result.cut, result.state) == (order, 0, "ready")
            eventually(lambda before=served: traffic.served > before)
    assert traffic.failures == []
    assert traffic.models == {"alpha", "beta"} and traffic.served > swaps


def test_a_load_reports_its_stages_and_the_slot_answers(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", load=0.2, answers={"hi": "A port."}))
    stages = [e["stage"] for e in slot.events if e["event"] == "stage"]
    assert [s for i, s in enumerate(stages) if s not in stages[:i]] == ["start", "import", "load", "weights", "probe"]
    weights = [e for e in slot.events if e.get("stage") == "weights"]
    assert weights[-1]["total"] == 10**9 and any(e["eta"] for e in weights)
    status, _, answer = chat(slot.port, "hi")
    assert status == 200 and answer["choices"][0]["message"]["content"] == "A port."
    row = slot.status()
    assert (row.model, row.engine, row.state) == ("alpha", "scripted", "ready") and row.memory_bytes > 10**6


def test_a_second_load_of_the_same_is_nothing_and_of_another_is_refused(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    pid = slot.engine_pid()
    assert slot.change("load", script("alpha")).order == "none"
    assert slot.engine_pid() == pid
    with pytest.raises(Refused, match="holds alpha") as caught:
        slot.change("load", script("beta"))
    assert caught.value.hint == f"llmctl swap {slot.port} beta"


def test_clients_survive_a_swap_by_the_old_name(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", names=("first",)))
    slot.change("swap", script("beta"))
    for name in ("alpha", "first", "beta", "default", "", None):
        status, _, answer = chat(slot.port, model=name)
        assert status == 200 and answer["model"] == "beta", (name, answer)
    assert chat(slot.port, model="gamma")[0] == 404


@pytest.mark.parametrize("order", ["new-first", "old-first"])
@pytest.mark.parametrize(
    ("play", "why"),
    [
        ({"fail": "load"}, "the script says"),
        ({"fail": "exit"}, "SIGKILL"),
        ({"fail": "check"}, "scripted-unsupported"),
        ({"garble": True}, "failed its probe"),
        ({"nan": True}, "not finite"),
        ({"identity": "impostor"}, "it is impostor"),
        ({"fail": "hang"}, "not ready within"),
    ],
)
def test_f15_a_new_model_that_fails_is_rolled_back(
    slots: Slots, script: Script, order: str, play: dict[str, object], why: str
) -> None:
    slot = slots(script("alpha"))
    with Traffic(slot.port, clients=4) as traffic:
        with pytest.raises(LlmctlError, match=why) as caught:
            slot.change("swap", script("beta", load_timeout=2.0, **play), order=order)
        served = traffic.served
        eventually(lambda: traffic.served > served + 5)
    assert traffic.failures == [] and traffic.models == {"alpha"}
    assert caught.value.details["rolled_back_to"] == "alpha"
    assert (slot.status().model, slot.state()) == ("alpha", "ready")
    if play.get("fail") == "exit":
        assert any("dying while loading" in line for line in caught.value.details["log"])


def test_f14_what_does_not_fit_is_refused_before_anything_stops(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    pid = slot.engine_pid()
    with pytest.raises(LlmctlError, match=r"needs 9000\.00 GB") as caught:
        slot.change("swap", script("beta", needed=9 * 10**12))
    assert caught.value.code == "does_not_fit" and caught.value.details["needed"] == 9 * 10**12
    assert slot.engine_pid() == pid


def test_memory_for_one_only_means_old_first(slots: Slots, script: Script) -> None:
    budget = 10_000_000
    slot = slots(script("alpha", needed=6_000_000))
    slot.kill()
    slot.launch = replace(slot.launch, memory_budget=budget)
    verbs.ensure_server(slot.home, slot.port, slot.launch)
    eventually(lambda: slot.state() == "ready")
    assert slot.change("swap", script("beta", needed=7_000_000)).order == "old-first"
    assert slot.change("swap", script("alpha", needed=2_000_000)).order == "new-first"


def test_a_failed_first_load_leaves_the_slot_empty(slots: Slots, script: Script) -> None:
    slot = slots()
    with pytest.raises(LoadFailed):
        slot.change("load", script("alpha", fail="load"))
    assert slot.state() == "empty"
    status, headers, answer = chat(slot.port)
    assert status == 503 and headers["retry-after"] and answer["error"]["code"] == "unavailable"


def test_a_swap_waits_for_the_old_models_answers(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", step=0.05, length=40))
    with Traffic(slot.port, clients=3, max_tokens=40) as traffic:
        eventually(lambda: slot.status().active == 3)
        slot.change("swap", script("beta"))
    assert traffic.failures == [] and "alpha" in traffic.models


def test_an_answer_past_the_finish_cap_is_cut_and_counted(slots: Slots, script: Script) -> None:
    slot = slots()
    slot.kill()
    slot.launch = replace(slot.launch, limits=replace(slot.launch.limits, request_time=1.0))
    slot.change("load", script("alpha", step=0.05, length=400))
    with Traffic(slot.port, clients=1, max_tokens=400) as traffic:
        eventually(lambda: slot.status().active == 1)
        slot.change("swap", script("beta"))
    assert traffic.models <= {"alpha", "beta"}


def test_idle_unload_sleeps_and_only_a_request_wakes(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", idle_unload=1.0))
    eventually(lambda: slot.state() == "sleeping")
    assert slot.engine_pid() is None
    for path in ("/health", "/metrics", "/v1/models"):
        assert get(slot.port, path)[0] == 200
    time.sleep(0.5)
    assert slot.state() == "sleeping"
    status, _, answer = chat(slot.port)
    assert status == 200 and answer["model"] == "alpha" and slot.state() == "ready"


def test_disable_holds_over_a_restart_of_the_server(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    verbs.disable(slot.home, slot.port, "new power supply")
    assert slot.engine_pid() is None
    status, _, answer = chat(slot.port)
    assert status == 503 and "new power supply" in answer["error"]["message"]
    slot.kill()
    assert (slot.state(), slot.status().why) == ("disabled", "new power supply")
    verbs.ensure_server(slot.home, slot.port)
    assert slot.state() == "disabled"
    with pytest.raises(Refused, match="disabled") as caught:
        slot.change("swap", script("beta"))
    assert caught.value.hint == f"llmctl enable {slot.port}"
    assert verbs.enable(slot.home, slot.port).state == "ready"
    assert chat(slot.port)[0] == 200


def test_a_disable_ends_by_itself_at_its_time(slots: Slots, script: Script) -> None:
    import datetime

    slot = slots(script("alpha"))
    soon = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=2)
    verbs.disable(slot.home, slot.port, "a moment", soon.isoformat())
    assert slot.state() == "disabled"
    eventually(lambda: slot.state() == "ready")


def test_unload_keeps_the_port_and_says_what_to_do(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    assert verbs.unload(slot.home, slot.port).previous == "alpha"
    status, _, answer = chat(slot.port)
    assert status == 503 and "no model" in answer["error"]["message"]
    slot.kill()
    assert slot.state() == "empty"


def test_unload_of_a_slot_that_is_down_starts_nothing(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    slot.kill()
    assert slot.state() == "down"
    assert verbs.unload(slot.home, slot.port).previous == "alpha"
    assert (slot.state(), slot.server_pid()) == ("empty", None)


def test_upgrade_keeps_the_engine_the_pid_and_every_request(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", step=0.005))
    engine, server = slot.engine_pid(), slot.server_pid()
    with Traffic(slot.port) as traffic:
        for _ in range(3):
            served = traffic.served
            verbs.restart(slot.home, slot.port, reexec=True)
            eventually(lambda before=served: traffic.served > before + 5)
    assert traffic.failures == []
    assert (slot.engine_pid(), slot.server_pid()) == (engine, server)
    assert slot.log().count("re-executes") == 3
    assert slot.change("swap", script("beta")).state == "ready"


def test_an_upgrade_that_cannot_read_the_state_is_refused(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    state = slot.folder.path / "desired.json"
    state.write_text(state.read_text().replace('"version": 1', '"version": 99', 1))
    with pytest.raises(Refused, match="old code goes on") as caught:
        verbs.restart(slot.home, slot.port, reexec=True)
    assert any("newer llmctl" in line for line in caught.value.details["log"])
    assert chat(slot.port)[0] == 200


def test_the_log_rotates_and_is_capped(slots: Slots, script: Script, tmp_path: Path) -> None:
    import asyncio

    from llmctl import logs
    from llmctl.runner import engine_log

    async def fill() -> None:
        log = engine_log.EngineLog(tmp_path / "engine.log")
        for _ in range(3 * logs.LARGEST // 1000):
            log.line("1", "x" * 1200 + "\x1b[31m\x07 red")
        log.close()

    asyncio.run(fill())
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["engine.log", "engine.log.1", "engine.log.2"]
    assert all(f.stat().st_size < logs.LARGEST * 1.01 for f in files)
    assert "\x1b" not in files[0].read_text()
    slot = slots(script("alpha"))
    lines = list(verbs.log_lines(slot.home, slot.port, lines=3))
    assert len(lines) <= 3 and os.path.getsize(slot.folder.log) < logs.LARGEST
