"""What a host tells of itself: when something changed, now and then when nothing did, and what its slots noted."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl import events
from llmctl.__main__ import main
from llmctl.domain import SlotSpec
from llmctl.slots import status
from llmctl.watch import host
from tests.conftest import RunningSlot


class Looks:
    """The looks of a host; `turns` is how often it has slept."""

    def __init__(self, home: Path, most: int = 1000) -> None:
        self.turns, self.most = 0, most
        self.came = host.looks(home, "h", 0.1, self.wait)

    def wait(self, pause: float) -> bool:
        self.turns += 1
        time.sleep(pause)
        return self.turns >= self.most

    def __next__(self) -> dict[str, Any]:
        return next(self.came)


def test_it_speaks_when_something_changed(
    home: Path, scripted_slot: RunningSlot, script: Callable[..., SlotSpec]
) -> None:
    looks = Looks(home)
    first = next(looks)
    assert [(slot["port"], slot["model"], slot["host"]) for slot in first["slots"]] == [
        (scripted_slot.port, "alpha", "h")
    ]
    done = threading.Thread(target=lambda: scripted_slot.change("swap", script("beta", load=0.5)))
    done.start()
    seen = [next(looks)]
    while seen[-1]["slots"][0]["model"] != "beta":
        seen.append(next(looks))
    done.join()
    rows = [look["slots"][0] for look in seen]
    assert any(row["state"] == "swapping" and row["progress"] for row in rows), "how far the load is"
    assert rows[-1]["model"] == "beta"


def test_it_says_nothing_while_nothing_changes(
    home: Path, slots: Callable[..., RunningSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    slots()
    looks = Looks(home, most=8)
    next(looks)
    assert next(looks.came, None) is None, "eight looks at a slot that stands still"
    monkeypatch.setattr(host, "BEAT", 0.3)
    looks = Looks(home)
    first, beat = ([{**slot, "unused": None} for slot in next(looks)["slots"]] for _ in range(2))
    assert first == beat
    assert looks.turns >= 2


def test_events_come_once_and_the_last_few_at_first(home: Path) -> None:
    for number in range(50):
        events.note(home, "load", port=8101, model=f"m{number}")
    looks = Looks(home)
    assert [event["model"] for event in next(looks)["events"]] == [f"m{number}" for number in range(30, 50)]
    events.note(home, "swap", port=8101, model="new")
    assert [event["kind"] for event in next(looks)["events"]] == ["swap"]


def test_a_slot_server_that_hangs_holds_up_no_other(
    home: Path, slots: Callable[..., RunningSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, well = slots(), slots()
    monkeypatch.setattr(status, "TIMEOUT", 1.0)
    server = hung.server_pid()
    assert server
    os.kill(server, signal.SIGSTOP)
    try:
        rows = {slot["port"]: slot for slot in next(Looks(home))["slots"]}
    finally:
        os.kill(server, signal.SIGCONT)
    assert rows[well.port]["runner_pid"] and not rows[hung.port]["runner_pid"]


def test_all_slots_are_asked_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for port in (8101, 8102, 8103):
        (home / "slots" / str(port)).mkdir(parents=True)
    met, real = threading.Barrier(3), status.status

    def meeting(*args: Any) -> Any:
        met.wait(10)
        return real(*args)

    monkeypatch.setattr(status, "status", meeting)
    assert [slot["port"] for slot in next(Looks(home))["slots"]] == [8101, 8102, 8103]


def test_broken_state_is_no_crash(home: Path) -> None:
    (home / "slots" / "8101").mkdir(parents=True)
    (home / "slots" / "8101" / "desired.json").write_text("{")
    (home / "ledger.json").write_text("[")
    (slot,) = next(Looks(home))["slots"]
    assert slot["state"] == "down" and "cannot be read" in slot["why"]


@pytest.mark.parametrize("words", [["--every=0"], ["--every", "nan"], ["--every=1h"], ["--every=11"], ["8101"]])
def test_bad_words(home: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "host", "watch", *words]) == 2
    assert json.loads(capsys.readouterr().out)["errors"][0]["code"] == "usage"
