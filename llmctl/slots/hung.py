"""A slot server that holds its port and answers nobody: stopped, or stuck. Only who restarts it may end it."""

from __future__ import annotations

import time
from pathlib import Path

from llmctl.domain import build
from llmctl.errors import Refused
from llmctl.files import locked
from llmctl.processes import ProcessId
from llmctl.slots.launch import is_up
from llmctl.slots.state import SlotFolder

GONE_WITHIN = 10.0
TRIES = 2
"""Times that it is asked, each with control's patience: a machine that swaps is slow, not stuck."""


def end_hung(home: Path, port: int) -> bool:
    """Kill the slot server of `port` if it is alive and does not answer; whether it did. Its engine ends with it."""
    folder = SlotFolder(home, port)
    with locked(folder.path / "launch.lock"):
        said = folder.read_actual().server
        if said is None or not (process := build(ProcessId, said)).alive():
            return False
        if any(is_up(folder) for _ in range(TRIES)) or not process.kill():
            return False
        end = time.monotonic() + GONE_WITHIN
        while process.alive():
            if time.monotonic() > end:
                raise Refused(f"the slot server of port {port} (pid {process.pid}) cannot be ended", port=port)
            time.sleep(0.05)
    return True
