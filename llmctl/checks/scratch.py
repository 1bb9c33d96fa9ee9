"""A slot server on a port that is nobody's, in a state folder of its own; however its caller ends, nothing stays."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from llmctl import backends
from llmctl.checks import keeper
from llmctl.domain import BACKOFF, CRASH_LOOP, EMPTY, READY, SlotSpec
from llmctl.errors import LoadFailed, Refused, Unreachable
from llmctl.paths import slot_ports
from llmctl.processes import own_environment
from llmctl.slots import control
from llmctl.slots.admission import Ledger
from llmctl.slots.launch import server_argv
from llmctl.slots.state import Launch, SlotFolder

LOG_LINES = 30
EVERY = 0.1
ENDED_WITHIN = 20.0
DEAD = (BACKOFF, CRASH_LOOP)


def free_port(home: Path, managed: tuple[int, int]) -> int:
    """A free port on loopback that is in no managed range and no slot's."""
    taken = set(slot_ports(home))
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken and not managed[0] <= port <= managed[1]:
            return port
    raise Refused("no free port outside of the managed range", hint="llmctl status")


class Server:
    """A slot server under a keeper."""

    def __init__(self, folder: SlotFolder, process: subprocess.Popen[bytes], model: str, log: Path) -> None:
        self.folder, self.process, self.model = folder, process, model
        self._log = log

    def wait_up(self, within: float) -> None:
        """Until it answers its control socket, with or without a model."""
        self._until(lambda: bool(control.call(self.folder.control, "ping", timeout=5.0)), within, "did not answer")

    def wait_ready(self, within: float) -> None:
        """Until the model has answered its probe."""

        def ready() -> bool:
            row = control.call(self.folder.control, "status", timeout=5.0)
            if row["state"] in DEAD or (row["state"] == EMPTY and row["why"]):
                raise self.failed(f"{self.model} did not come up: {row['why']}")
            return bool(row["state"] == READY)

        self._until(ready, within, "was not ready")

    def _until(self, reached: Callable[[], bool], within: float, late: str) -> None:
        end = time.monotonic() + within
        while time.monotonic() < end:
            if said := self._ended():
                raise self.failed(f"the slot server of {self.model} {said}")
            with contextlib.suppress(Unreachable):
                if reached():
                    return
            time.sleep(EVERY)
        raise self.failed(f"the slot server of {self.model} {late} within {within:g} s")

    def failed(self, message: str) -> LoadFailed:
        """The error with the last lines of the log."""
        return LoadFailed(message, details={"log": self.log()})

    def log(self) -> list[str]:
        """The last lines that it and its engine wrote."""
        text = self._log.read_text(errors="replace") if self._log.is_file() else ""
        return text.splitlines()[-LOG_LINES:]

    def _ended(self) -> str | None:
        assert self.process.stdout
        came, _, _ = select.select([self.process.stdout], [], [], 0)
        return (self.process.stdout.readline().decode().strip() or "was lost") if came else None


@contextlib.contextmanager
def serving(port: int, spec: SlotSpec, launch: Launch, *, empty: bool = False) -> Iterator[Server]:
    """A slot server in a temporary state folder that brings up `spec`, or with `empty` waits to be told to."""
    home = Path(tempfile.mkdtemp(prefix="llmctl-scratch-"))
    folder = SlotFolder(home, port)
    argv = [sys.executable, *server_argv(folder, launch)]
    if not empty:
        argv += ["--foreground", json.dumps(spec.to_dict())]
    process = subprocess.Popen(
        [sys.executable, "-m", "llmctl.checks.keeper", str(home), *argv],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=own_environment(),
    )  # fmt: skip
    try:
        yield Server(folder, process, spec.model, folder.log if empty else home / keeper.OUTPUT)
    finally:
        assert process.stdin and process.stdout
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDED_WITHIN)
        process.stdout.close()


@contextlib.contextmanager
def reserved(home: Path, port: int, spec: SlotSpec, launch: Launch) -> Iterator[None]:
    """The memory, as the ledger of this host's slots gives it out; it counts while this process lives."""
    memory, ledger = backends.get(launch.backend).memory(), Ledger(home)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    budget = launch.memory_budget or memory.total
    key, _ = ledger.reserve(port, spec.needed_bytes, free=memory.free, budget=budget, resident=0)
    try:
        yield
    finally:
        ledger.release(key)
