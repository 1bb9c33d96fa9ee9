"""Keys that change slots: a real slot of this machine among others that stand still; and it all on a terminal."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from llmctl.__main__ import main
from llmctl.cli import watching
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.cli.slot_acts import SlotActs
from llmctl.domain import SlotSpec
from llmctl.top.app import Top
from llmctl.watch.fleet import Watch
from llmctl.watch.view import Snapshot
from tests.cli.terminal import Terminal
from tests.conftest import RunningSlot, eventually
from tests.top.fixed import Still, fleet
from tests.top.screen import text

MODELS = ("alpha", "beta", "broken")


@dataclass
class Mixed(Still):
    """The still fleet, and this machine as it is."""

    real: Watch | None = None

    def snapshot(self) -> Snapshot:
        assert self.real
        found = self.real.snapshot()
        return Snapshot(found.number, found.at, {**found.hosts, **self.now.hosts})


@pytest.fixture
def top(home: Path, tmp_path: Path, script: Callable[..., SlotSpec]) -> Iterator[Top]:
    """The view, with this machine as the host `here`, which has MODELS."""
    entries = ""
    for name in MODELS:
        script(name, **({"fail": "load"} if name == "broken" else {}))
        entries += f'[models.{name}]\nartifacts = [{{ format = "script", path = "{home / f"{name}.script.json"}" }}]\n'
    (tmp_path / "models.toml").write_text(entries)
    (tmp_path / "hosts.toml").write_text("[hosts.here]\n")
    session = Session(config_dir=str(tmp_path))
    with Reach(session) as reach, watching.watch(reach, list(session.config.hosts.values()), 0.1) as watch:
        yield Top(Mixed(fleet(), real=watch), SlotActs(reach))


def played(top: Top, play: Callable[[Pilot[None]], Any]) -> None:
    async def run() -> None:
        async with top.run_test(size=(120, 30)) as pilot:
            await play(pilot)

    asyncio.run(run())


async def until(pilot: Pilot[None], true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, text(pilot.app)
        pilot.app.look()  # type: ignore[attr-defined]
        await pilot.pause(0.2)


async def shows(pilot: Pilot[None], what: str) -> None:
    await until(pilot, lambda: what in " ".join(text(pilot.app).split()))


def test_keys_change_a_real_slot(top: Top, scripted_slot: RunningSlot) -> None:
    slot, where = scripted_slot, f"here:{scripted_slot.port}"

    async def serves(pilot: Pilot[None], model: str | None) -> None:
        """The row of the slot tells so: the next key is about that."""
        await until(pilot, lambda: [found.row["model"] for found in top.slots if found.key == where] == [model])

    async def play(pilot: Pilot[None]) -> None:
        await serves(pilot, "alpha")
        await pilot.press("home", "s")
        await shows(pilot, f"swap {where}: which model?")
        await pilot.press(*"bet", "enter")
        await shows(pilot, f"Swap alpha on {where} for beta?")
        assert slot.status().model == "alpha"
        await pilot.press("y")
        await shows(pilot, f"✓ swap {where} beta beta ready · before: alpha")
        await serves(pilot, "beta")

        before = slot.engine_pid()
        await pilot.press("r")
        await shows(pilot, f"Restart beta on {where}?")
        await pilot.press("y")
        await until(pilot, lambda: slot.engine_pid() not in (None, before) and slot.state() == "ready")

        await pilot.press("u")
        await shows(pilot, f"Unload beta from {where}?")
        await pilot.press("n")
        await pilot.press("u", "enter")
        assert slot.status().model == "beta", "only a typed y is a yes"
        await pilot.press("u", "y")
        await until(pilot, lambda: slot.status().model is None)
        await shows(pilot, f"✓ unload {where} no model empty · before: beta")

        await serves(pilot, None)
        await pilot.press("l")
        await shows(pilot, "which model?")
        await pilot.press("down", "down", "enter", "y")
        await shows(pilot, "✗ load")
        assert slot.status().model is None
        await pilot.press("l")
        await shows(pilot, "which model?")
        await pilot.press(*"alp", "enter", "y")
        await until(pilot, lambda: slot.status().model == "alpha")

    played(top, play)


def test_a_log_is_followed_until_it_is_closed(top: Top, scripted_slot: RunningSlot) -> None:
    async def play(pilot: Pilot[None]) -> None:
        await shows(pilot, f"here:{scripted_slot.port}")
        await pilot.press("home", "f")
        await shows(pilot, f"log of here:{scripted_slot.port}")
        await shows(pilot, "slot: load by")
        with scripted_slot.folder.log.open("a") as log:
            log.write("a new \x1b[2J line\n")
        await shows(pilot, r"a new \x1b[2J line")
        await pilot.press("escape")
        await shows(pilot, "SLOT")

    played(top, play)


def test_on_a_terminal(home: Path, tmp_path: Path, scripted_slot: RunningSlot) -> None:
    terminal = Terminal(["top", "--every", "0.2s"], tmp_path, TERM="xterm-256color", COLUMNS="100", LINES="24")
    try:
        terminal.wait(f"local:{scripted_slot.port}")
        terminal.type("q")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.shown
    finally:
        terminal.close()


def test_without_a_terminal_it_names_what_to_type(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top"]) == 2
    assert "hint: llmctl status\n" in capsys.readouterr().err
    assert main(["--json", "top"]) == 2
    error = json.loads(capsys.readouterr().out)["errors"][0]
    assert (error["code"], error["hint"]) == ("usage", "llmctl status --json")


def test_bad_words_and_no_textual(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    assert main(["top", "--every", "1h"]) == 2
    assert main(["top", "--host", "nobody"]) == 2
    capsys.readouterr()
    monkeypatch.delitem(sys.modules, "llmctl.top.app")
    monkeypatch.setitem(sys.modules, "textual.app", None)
    assert main(["top"]) == 1
    assert "pip install 'llmctl-fleet[top]'" in capsys.readouterr().err


def test_what_is_not_there_is_told(top: Top) -> None:
    async def play(pilot: Pilot[None]) -> None:
        await shows(pilot, "attic:8101")
        await pilot.press("end", "s")
        await shows(pilot, "✗ swap attic:8101")
        await pilot.press("slash", *"mac:8102", "enter", "u")
        await shows(pilot, "unload mac:8102 it has no model: l loads one")

    played(top, play)


def test_eventually_nothing_is_left_open(top: Top, scripted_slot: RunningSlot) -> None:
    import threading

    async def play(pilot: Pilot[None]) -> None:
        await shows(pilot, f"here:{scripted_slot.port}")
        await pilot.press("home", "f")
        await shows(pilot, "log of")
        await pilot.press("q")

    before = threading.active_count()
    played(top, play)
    eventually(lambda: threading.active_count() <= before)
