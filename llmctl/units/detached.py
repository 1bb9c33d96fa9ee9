"""No service manager: a slot server is a process of its own that outlives whoever started it, until the next reboot."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

from llmctl.errors import LoadFailed, from_dict
from llmctl.processes import own_environment
from llmctl.slots.state import SlotFolder
from llmctl.units import UnitState, program

START_TIMEOUT = 30.0


class Detached:
    """Starts the release in use, or where there is none the code of whoever asks; knows nothing of it afterwards."""

    def install(self, home: Path) -> list[str]:
        return []

    def start(self, home: Path, port: int) -> None:
        folder = SlotFolder(home, port)
        read, write = os.pipe()
        deployed = [str(program(home))] if program(home).exists() else None
        server = deployed or [sys.executable, "-m", "llmctl.runner.server"]
        argv = [*server, str(port), "--home", str(home), "--ready-fd", str(write)]
        with open(folder.errors, "ab") as errors:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=(write,), cwd=home,
                start_new_session=True, env=own_environment(),
            )  # fmt: skip
        process.returncode = 0  # it outlives us: nobody here waits for it
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            came, _, _ = select.select([pipe], [], [], START_TIMEOUT)
            line = pipe.readline() if came else b""
        if not line:
            raise LoadFailed(f"the slot server of port {port} did not start", port=port)
        answer = json.loads(line)
        if not answer["ok"]:
            raise from_dict(answer["error"])

    def at_boot(self, home: Path, port: int, on: bool) -> None:
        """Nothing starts it at boot."""

    def stop(self, home: Path, port: int) -> None:
        """Its control socket is the way to stop it."""

    def state(self, home: Path, port: int) -> UnitState:
        return UnitState(False, "unknown")

    def remove(self, home: Path) -> None:
        """There are no files."""


DETACHED = Detached()
