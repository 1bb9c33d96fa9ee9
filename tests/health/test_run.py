"""`llmctl health` over real slots of this machine: what it finds, keeps, heals and tells."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.domain import READY, Limits, SlotSpec
from llmctl.files import locked
from llmctl.history.store import History
from llmctl.slots import verbs
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]
Health = Callable[..., tuple[int, dict[str, Any]]]
QUICK = Launch(limits=Limits(drain=1.0, stall=600.0))
"""Its slot server would see a wedged engine after ten minutes."""


@pytest.fixture
def health(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Health:
    """health("--heal") → exit code and envelope."""
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))
    (tmp_path / "hosts.toml").write_text('[hosts.here]\ntransport = "local"\nservice = "none"\n')

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main(["health", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def history(home: Path) -> Iterator[Callable[[], History]]:
    opened: list[History] = []

    def open_it() -> History:
        opened.append(History.open(home / "history.db", write=False))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


def row(envelope: dict[str, Any]) -> dict[str, Any]:
    assert "slots" in envelope["data"], json.dumps(envelope)
    (found,) = envelope["data"]["slots"]
    return dict(found)


def test_a_slot_that_answers_is_ok_and_its_figures_are_kept(
    scripted_slot: RunningSlot, health: Health, history: Callable[[], History]
) -> None:
    code, envelope = health()
    assert (code, row(envelope)["verdict"]) == (0, "ok"), envelope
    assert row(envelope)["model"] == "alpha" and row(envelope)["first_token"] > 0
    assert health("--quiet")[1]["data"]["changes"] == []
    firsts, rates = history().figures("here", scripted_slot.port, "alpha")
    assert len(firsts) == len(rates) == 2
    assert [event.kind for event in history().events("here")] == ["load"]


def test_a_wedged_engine_is_found_healed_and_recorded_in_one_run(
    slots: Slots, script: Script, health: Health, history: Callable[[], History]
) -> None:
    slot = slots(script("alpha"), QUICK)
    before = slot.engine_pid()
    assert health()[0] == 0
    os.kill(before or 0, signal.SIGSTOP)
    code, envelope = health("--timeout", "2s")
    assert (code, row(envelope)["verdict"]) == (1, "down") and "no answer within 2 s" in row(envelope)["why"]
    assert envelope["data"]["slots"][0]["findings"][0]["fix"] == f"llmctl restart here:{slot.port}"
    code, envelope = health("--heal", "--timeout", "6s")
    assert (code, row(envelope)["verdict"], row(envelope)["healed"]) == (0, "ok", "restarted"), json.dumps(envelope)
    assert slot.engine_pid() != before
    (incident,) = history().incidents()
    assert incident.closed and incident.verdict == "down" and incident.heals == 1
    kinds = [event.kind for event in history().events("here")]
    assert [kind for kind in kinds if kind in ("incident", "heal", "recovered")] == ["incident", "heal", "recovered"]


def test_c04_a_slot_that_is_changing_is_skipped_and_never_healed(slots: Slots, script: Script, health: Health) -> None:
    from threading import Thread

    slot = slots(script("alpha"))
    swap = Thread(target=slot.change, args=("swap", script("beta", load=4.0)))
    swap.start()
    eventually(lambda: slot.status().operation == "swap")
    code, envelope = health("--heal")
    swap.join()
    assert (code, row(envelope)["verdict"], row(envelope)["healed"]) == (5, "skipped", None), envelope
    assert slot.status().model == "beta" and slot.state() == READY


def test_overlapping_runs_skip(scripted_slot: RunningSlot, health: Health, home: Path) -> None:
    with locked(home / "health.lock"):
        code, envelope = health()
    assert code == 5 and "another health run" in envelope["data"]["notes"][0]


@pytest.mark.parametrize(("do", "why"), [("disable", "new fan"), ("unload", "no model")])
def test_what_is_down_on_purpose_is_skipped(do: str, why: str, scripted_slot: RunningSlot, health: Health) -> None:
    if do == "disable":
        verbs.disable(scripted_slot.home, scripted_slot.port, why)
    else:
        verbs.unload(scripted_slot.home, scripted_slot.port)
    code, envelope = health("--heal")
    assert code == 5 and all(
        found["verdict"] == "skipped" and why in found["why"] for found in envelope["data"]["slots"]
    )


def test_a_sleeping_slot_is_not_woken_unless_asked(slots: Slots, script: Script, health: Health) -> None:
    slot = slots(script("alpha", idle_unload=0.5))
    eventually(lambda: slot.state() == "sleeping")
    assert health()[0] == 5 and slot.state() == "sleeping"
    code, envelope = health("--wake")
    assert (code, row(envelope)["verdict"]) == (0, "ok"), envelope


def test_a_slot_server_that_is_gone_is_started_again(scripted_slot: RunningSlot, health: Health) -> None:
    scripted_slot.kill()
    code, envelope = health()
    assert (code, row(envelope)["findings"][0]["code"]) == (1, "no_server")
    code, envelope = health("--heal")
    assert (code, row(envelope)["healed"]) == (0, "restarted"), envelope


def test_the_last_good_model_is_the_last_resort(slots: Slots, script: Script, health: Health, tmp_path: Path) -> None:
    (tmp_path / "health.toml").write_text('[heal]\nrestarts = 1\nbackoff = "1s"\n')
    slot = slots(script("alpha"), QUICK)
    slot.change("swap", script("beta", wedge_after=60))  # it proves itself in 48 steps, and wedges in the answer after
    code, envelope = health("--heal", "--timeout", "6s")
    assert (code, row(envelope)["verdict"], row(envelope)["healed"]) == (1, "down", "restarted"), json.dumps(envelope)
    code, envelope = health("--heal", "--timeout", "6s")
    assert (code, row(envelope)["healed"]) == (0, "alpha loaded again"), json.dumps(envelope)
    assert slot.status().model == "alpha" and slot.status().last_good is None


def test_an_engine_that_answers_others_is_busy_not_down(slots: Slots, script: Script, health: Health) -> None:
    from threading import Thread

    from tests.clients import chat

    slot = slots(script("alpha", parallel=1, length=400, step=0.02), QUICK)
    other = Thread(target=chat, args=(slot.port,), kwargs={"max_tokens": 400})
    other.start()
    eventually(lambda: slot.status().tokens_per_second > 0)
    code, envelope = health("--timeout", "2s")
    assert (code, row(envelope)["verdict"]) == (3, "degraded"), json.dumps(envelope)
    assert "busy" in row(envelope)["why"]
    other.join()


def test_without_its_history_health_goes_on(scripted_slot: RunningSlot, health: Health, home: Path) -> None:
    with sqlite3.connect(home / "history.db") as db:
        db.execute("PRAGMA user_version = 99")
    code, envelope = health("--heal")
    assert code == 0 and row(envelope)["verdict"] == "ok"
    assert [error["code"] for error in envelope["errors"]] == ["history"] and envelope["errors"][0]["hint"]


def test_a_port_that_is_no_slot_is_told(home: Path, health: Health) -> None:
    code, envelope = health("8139")
    assert code != 0 and "8139" in json.dumps(envelope)
