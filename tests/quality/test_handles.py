"""Whom `llmctl quality HANDLE` asks: the gateway where one runs and has the handle, else the slot that serves it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmctl import keys
from llmctl.domain import SlotSpec
from llmctl.gateway import callers
from llmctl.gateway.limits import Allowed
from llmctl.slots.state import Launch
from tests.cli.fleet import Fleet, fleet, machines
from tests.conftest import RunningSlot, eventually
from tests.gateway.conftest import Start, gateway, handle
from tests.quality.conftest import Ask
from tests.quality.test_quality import RIGHT, SUMS, WRONG, Own, run_of, statuses

__all__ = ["fleet", "gateway", "machines"]

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]


def test_a_handle_is_asked_at_the_gateway_and_without_one_at_its_slot(
    ask: Ask, own: Own, slots: Slots, script: Script, gateway: Start
) -> None:
    slot, prompts = slots(script(names=("fast",), answers=RIGHT)), own(SUMS)
    front = gateway(handle("fast", slot, names=("fast",)))
    code, found = ask("fast", prompts)
    assert (code, run_of(found)["through"], run_of(found)["port"]) == (
        0,
        f"the gateway local:{front.port}",
        front.port,
    )
    assert len(run_of(found)["passed"]) == 2
    front.kill()
    slot.change("swap", script("beta", names=("fast",), answers=WRONG))
    code, found = ask("fast", prompts)  # the same handle, and so the same baseline
    assert (code, run_of(found)["through"]) == (1, f"the slot local:{slot.port}")
    assert statuses(found)["sum"] == "regressed"


def test_a_gateway_that_wants_a_key(
    ask: Ask, own: Own, slots: Slots, script: Script, gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot, prompts = slots(script(answers=RIGHT)), own(SUMS)
    keys.show(slot.home)
    front = gateway(handle("fast", slot), launch=Launch(require_key=True))
    assert ask("fast", prompts)[0] == 0  # this machine's own key
    monkeypatch.setenv("LLMCTL_KEY", callers.add(front.home, "tester", Allowed(handles=("fast",))))
    eventually(lambda: ask("fast", prompts)[0] == 0)  # the gateway takes a new key up within a second
    monkeypatch.setenv("LLMCTL_KEY", "wrong")
    code, found = ask("fast", prompts)
    assert (code, "runs" in found["data"]) == (1, False)
    assert "key" in found["errors"][0]["message"]


def test_a_name_that_neither_has(ask: Ask, slots: Slots, script: Script, gateway: Start) -> None:
    gateway(handle("fast", slots(script())))
    code, found = ask("fest")
    assert (code, found["errors"][0]["hint"]) == (2, "did you mean 'fast'?")


WHO = """
shipped = false
[prompts.who]
ask = "Who?"
says = ["alpha"]
"""


def test_a_slot_of_another_host_is_asked_over_ssh_and_gets_its_model_back(fleet: Fleet) -> None:
    (fleet.config / "quality.toml").write_text(WHO)
    one = fleet.at("gpu1")
    assert fleet("swap", one, "alpha").code == 0
    first = fleet("quality", "alpha")
    assert (first.code, first.data["runs"][0]["passed"], first.data["runs"][0]["through"]) == (
        0, ["who"], f"the slot {one}"
    )  # fmt: skip
    assert "gpu1" in fleet.text("history", "--slot", one)[1]
    done = fleet("swap", one, "beta", "--require-quality")  # held against what alpha can
    assert (done.code, done.errors[0]["message"]) == (1, "beta fails who; alpha serves again")
    assert done.data["quality"]["rows"][0]["failed"] == {"says": "there is no 'alpha': 'I am beta.'"}
    assert fleet.model(one) == "alpha"

    other = fleet.at("gpu2")  # where nothing is known, and so nothing can be worse
    done = fleet("swap", other, "beta", "--require-quality")
    assert (done.code, done.data["quality"]["failed"], fleet.model(other)) == (0, ["who"], "beta")
    assert fleet("swap", one, "beta", "--require-quality", "--host", "gpu1").code == 2
    assert fleet("swap", one.partition(":")[2], "beta", "--require-quality", "--host", "gpu*").code == 2
