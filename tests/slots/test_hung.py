"""A slot server that is alive and answers nobody: a restart mends it, and nothing else touches it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.domain import READY, SlotSpec
from llmctl.errors import LlmctlError
from llmctl.processes import start_time
from llmctl.slots import control, hung, verbs
from tests.conftest import RunningSlot, eventually


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here waits five seconds for a stopped process."""
    ask = control.call
    monkeypatch.setattr("llmctl.slots.launch.control.call", lambda *args, **kw: ask(*args, **{**kw, "timeout": 1.0}))


def test_a_restart_ends_a_stopped_slot_server_and_its_engine(scripted_slot: RunningSlot, impatient: None) -> None:
    server, engine, notes = scripted_slot.server_pid(), scripted_slot.engine_pid(), []
    assert server and engine
    os.kill(server, signal.SIGSTOP)
    verbs.restart(scripted_slot.home, scripted_slot.port, on_event=notes.append)
    eventually(lambda: scripted_slot.state() == READY)
    assert scripted_slot.server_pid() not in (None, server) and start_time(server) is None
    eventually(lambda: start_time(engine) is None)
    assert "did not answer: it was killed" in notes[0]["message"]


def test_one_that_answers_is_not_ended(scripted_slot: RunningSlot) -> None:
    server = scripted_slot.server_pid()
    assert not hung.end_hung(scripted_slot.home, scripted_slot.port)
    assert scripted_slot.server_pid() == server


def test_a_load_never_kills_a_slot_server(
    scripted_slot: RunningSlot, script: Callable[..., SlotSpec], impatient: None
) -> None:
    server = scripted_slot.server_pid()
    assert server
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(LlmctlError):
            scripted_slot.change("swap", script("beta"))
    finally:
        os.kill(server, signal.SIGCONT)
    assert start_time(server) is not None and scripted_slot.server_pid() == server


def test_f11_a_process_that_only_has_the_same_pid_is_not_killed(home: Path, scripted_slot: RunningSlot) -> None:
    folder = scripted_slot.folder
    scripted_slot.kill()
    actual = folder.read_actual()
    folder.write_actual(replace(actual, server={**(actual.server or {}), "pid": os.getpid()}))
    assert not hung.end_hung(home, scripted_slot.port)
