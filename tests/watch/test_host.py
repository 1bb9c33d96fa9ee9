"""What a host tells of itself: when something changed, now and then when nothing did, and what its slots noted."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl import events
from llmctl.__main__ import main
from llmctl.domain import SlotSpec
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
    assert next(looks)["slots"] == next(looks)["slots"], "a beat"
    assert looks.turns >= 2


def test_events_come_once_and_the_last_few_at_first(home: Path) -> None:
    for number in range(50):
        events.note(home, "load", port=8101, model=f"m{number}")
    looks = Looks(home)
    assert [event["model"] for event in next(looks)["events"]] == [f"m{number}" for number in range(30, 50)]
    events.note(home, "swap", port=8101, model="new")
    assert [event["kind"] for event in next(looks)["events"]] == ["swap"]


@pytest.fixture
def two(slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec]) -> Iterator[list[RunningSlot]]:
    found = [slots(script("alpha")), slots(script("beta"))]
    yield found
    for slot in found:
        os.kill(
            int(json.loads((slot.folder.path / "actual.json").read_text())["data"]["server"]["pid"]), signal.SIGCONT
        )


def test_a_slot_server_that_hangs_holds_up_no_other(
    home: Path, two: list[RunningSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmctl.slots import status

    monkeypatch.setattr(status, "TIMEOUT", 1.0)
    server = two[0].server_pid()
    assert server
    os.kill(server, signal.SIGSTOP)
    rows = {slot["port"]: slot["state"] for slot in next(Looks(home))["slots"]}
    assert rows[two[1].port] == "ready" and rows[two[0].port] != "ready"


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
