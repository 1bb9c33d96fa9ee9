"""The load of the quickstart: it counts honestly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import RunningSlot

SCRIPT = Path(__file__).parents[2] / "scripts" / "load_clients.py"


def under_load(port: int, *command: str) -> tuple[int, int, int]:
    """(exit code, served, failed) of 6 clients while `command` runs."""
    argv = [sys.executable, str(SCRIPT), str(port), "--clients", "6", "--after", "0.2", "--", *command]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"served (\d+) · failed (\d+) · longest wait \d+ ms", done.stdout)
    assert found, done.stderr
    return done.returncode, int(found[1]), int(found[2])


def test_all_served(scripted_slot: RunningSlot) -> None:
    code, served, failed = under_load(scripted_slot.port, "true")
    assert (code, failed) == (0, 0)
    assert served >= 6


def test_a_failed_command_fails(scripted_slot: RunningSlot) -> None:
    assert under_load(scripted_slot.port, "false")[0] == 1


def test_a_dead_engine_is_counted(scripted_slot: RunningSlot) -> None:
    code, _, failed = under_load(scripted_slot.port, "kill", "-9", str(scripted_slot.server_pid()))
    assert code == 1
    assert failed > 0
