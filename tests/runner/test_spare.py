"""A warm spare: the next model is loaded by it, and whatever becomes of it, the slot goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.domain import SlotSpec
from llmctl.errors import DoesNotFit
from llmctl.slots import verbs
from llmctl.slots.admission import Ledger
from llmctl.slots.state import Launch
from tests.clients import Traffic, chat
from tests.conftest import RunningSlot, eventually
from tests.runner.test_real_engines import real

Script = Callable[..., SlotSpec]
Slots = Callable[..., RunningSlot]
BYTES = 1_000_000


def kept(spec: SlotSpec, bytes: int = BYTES) -> SlotSpec:
    return replace(spec, spare_bytes=bytes)


def ready(slot: RunningSlot) -> int:
    """The pid of the spare, once it can be used: of one that just died, the slot may not know yet."""

    def found() -> int | None:
        status = slot.status()
        return status.spare_pid if status.spare == "ready" and status.spare_pid and lives(status.spare_pid) else None

    pid: int = eventually(found)
    return pid


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("engine", "first", "second"),
    [("torch", "tiny-llama", "tiny-qwen2"), ("llamacpp", "tiny-llama-gguf", "tiny-qwen2-gguf")],
)
def test_a_swap_of_a_real_engine_loads_in_the_spare(
    slots: Slots, tiny_models: dict[str, Path], engine: str, first: str, second: str
) -> None:
    slot = slots(kept(real(engine, first, tiny_models[first])))
    for name in (second, first):
        spare = ready(slot)
        with Traffic(slot.port, clients=2, pause=0.1) as traffic:
            slot.change("swap", kept(real(engine, name, tiny_models[name])))
        assert traffic.failures == [] and slot.engine_pid() == spare
        status, _, answer = chat(slot.port, "What is a slot?", temperature=0, max_tokens=24)
        assert status == 200 and answer["choices"][0]["message"]["content"].startswith("A port")


def test_an_old_first_swap_a_restart_and_a_wake_take_it_too(slots: Slots, script: Script) -> None:
    slot = slots(kept(script("alpha")))
    spare = ready(slot)
    slot.change("swap", kept(script("beta", idle_unload=1.0)), order="old-first")
    assert slot.engine_pid() == spare
    spare = ready(slot)
    verbs.restart(slot.home, slot.port)
    assert slot.engine_pid() == spare
    spare = ready(slot)
    eventually(lambda: slot.state() == "sleeping")
    assert chat(slot.port)[0] == 200 and slot.engine_pid() == spare


def test_f01_an_engine_that_dies_comes_back_in_the_spare(slots: Slots, script: Script) -> None:
    slot = slots(kept(script("alpha")))
    spare, engine = ready(slot), slot.engine_pid()
    assert engine
    os.kill(engine, signal.SIGKILL)
    eventually(lambda: slot.engine_pid() == spare and slot.state() == "ready")
    assert chat(slot.port)[0] == 200


def test_a_spare_that_dies_is_no_crash_and_is_replaced(slots: Slots, script: Script) -> None:
    slot = slots(kept(script("alpha")))
    engine = slot.engine_pid()
    for _ in range(2):
        spare = ready(slot)
        os.kill(spare, signal.SIGKILL)
        eventually(lambda: not lives(spare))  # noqa: B023
        assert (slot.state(), slot.engine_pid()) == ("ready", engine)
    assert ready(slot) != spare
    assert "the spare was killed by SIGKILL" in slot.log() and "the next one comes in 2 s" in slot.log()
    assert slot.change("swap", kept(script("beta"))).state == "ready"


def test_another_engine_starts_as_usual_and_changes_the_spare(
    slots: Slots, script: Script, tiny_models: dict[str, Path]
) -> None:
    slot = slots(kept(script("alpha")))
    spare = ready(slot)
    slot.change("swap", kept(real("llamacpp", "tiny-llama-gguf", tiny_models["tiny-llama-gguf"])))
    assert slot.engine_pid() != spare and not lives(spare)
    spare = ready(slot)
    slot.change("swap", script("beta"))
    eventually(lambda: not lives(spare))
    assert slot.status().spare is None


@pytest.mark.parametrize("end", ["unload", "disable", "stop", "kill"])
def test_f02_no_spare_outlives_its_slot(slots: Slots, script: Script, end: str) -> None:
    slot = slots(kept(script("alpha")))
    spare, engine = ready(slot), slot.engine_pid()
    if end == "unload":
        verbs.unload(slot.home, slot.port)
    elif end == "disable":
        verbs.disable(slot.home, slot.port, "new fan")
    elif end == "stop":
        verbs.stop(slot.home, slot.port)
    else:
        slot.kill()
    eventually(lambda: not lives(spare) and engine and not lives(engine))
    assert slot.status().spare is None and Ledger(slot.home).reserved() == 0


def test_an_upgrade_leaves_one_spare_and_no_zombie(slots: Slots, script: Script) -> None:
    slot = slots(kept(script("alpha")))
    spare = ready(slot)
    verbs.restart(slot.home, slot.port, reexec=True)
    assert not Path(f"/proc/{spare}").exists()
    new = ready(slot)
    assert Ledger(slot.home).reserved() == 2 * BYTES
    slot.change("swap", kept(script("beta")))
    assert slot.engine_pid() == new


def test_f14_a_spare_that_does_not_fit_is_left_out(slots: Slots, script: Script) -> None:
    slot = slots(launch=Launch(memory_budget=10 * BYTES))
    slot.change("load", kept(script("alpha", needed=4 * BYTES), 7 * BYTES))
    eventually(lambda: "no spare: needs 7.0 MB, has 6.0 MB" in slot.log())
    assert (slot.state(), slot.status().spare) == ("ready", None)
    assert Ledger(slot.home).reserved() == 4 * BYTES


def test_f14_a_spare_counts_in_the_memory_and_gives_way_to_a_model(slots: Slots, script: Script) -> None:
    slot = slots(launch=Launch(memory_budget=10 * BYTES))
    slot.change("load", kept(script("alpha", needed=4 * BYTES), 2 * BYTES))
    ready(slot)
    assert Ledger(slot.home).reserved() == 6 * BYTES
    with pytest.raises(DoesNotFit, match=r"needs 20.0 MB, has 10.0 MB"):
        slot.change("swap", kept(script("huge", needed=20 * BYTES)))
    eventually(lambda: slot.status().spare and Ledger(slot.home).reserved() == 6 * BYTES)
    assert slot.change("swap", kept(script("beta", needed=6 * BYTES), 2 * BYTES)).order == "new-first"
    ready(slot)
    assert Ledger(slot.home).reserved() == 8 * BYTES


def test_f15_a_model_that_fails_in_the_spare_rolls_back_and_there_is_another(slots: Slots, script: Script) -> None:
    slot = slots(kept(script("alpha")))
    spare = ready(slot)
    with pytest.raises(Exception, match="SIGKILL"):
        slot.change("swap", kept(script("beta", fail="exit")))
    assert (slot.status().model, slot.state()) == ("alpha", "ready")
    assert ready(slot) != spare


def test_a_spare_whose_library_is_missing_says_so_and_nothing_else_happens(
    slots: Slots, script: Script, tmp_path: Path
) -> None:
    missing, python = tmp_path / "missing", tmp_path / "python"
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['llmctl.engines.scripted'] = None\n")
    broken = f"[ -e {missing} ] && export PYTHONPATH={tmp_path}:$PYTHONPATH"
    python.write_text(f'#!/bin/sh\n{broken}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    slot = slots(kept(replace(script("alpha"), python=str(python))))
    spare = ready(slot)
    missing.touch()
    os.kill(spare, signal.SIGKILL)
    eventually(lambda: "the spare ended: the libraries of scripted cannot be imported" in slot.log())
    assert slot.state() == "ready" and chat(slot.port)[0] == 200
