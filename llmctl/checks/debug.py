"""One generation of one model on a scratch port, in a state folder of its own; nothing of it stays."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmctl import backends, paths
from llmctl.catalog import Catalog
from llmctl.checks import keeper
from llmctl.checks.slot_http import SlotHttp
from llmctl.config import Host
from llmctl.domain import BACKOFF, CRASH_LOOP, EMPTY, READY, SlotSpec
from llmctl.errors import LlmctlError, LoadFailed, Refused, Unreachable
from llmctl.models import store
from llmctl.paths import slot_ports
from llmctl.processes import own_environment
from llmctl.slots import control
from llmctl.slots.admission import Ledger
from llmctl.slots.launch import server_argv
from llmctl.slots.resolve import Wish, resolve
from llmctl.slots.state import Launch, SlotFolder

PROMPT, TOKENS, TEMPERATURE = "Once upon a time", 20, 0.7
READY_WITHIN = 30.0
ANSWER_WITHIN = 120.0
LOG_LINES = 30
EVERY = 0.1
ENDED_WITHIN = 20.0
DEAD = (BACKOFF, CRASH_LOOP)

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Debugged:
    """What the model said; times in seconds."""

    host: str
    port: int
    backend: str
    model: str
    engine: str
    prompt: str
    text: str
    tokens: int
    seconds: float
    tokens_per_second: float
    ready_seconds: float


def smallest(catalog: Catalog, host: Host) -> SlotSpec:
    """The spec of the smallest model on this host that an engine of its backend can run."""
    found = [
        (_bytes(path), model.id, artifact)
        for model in catalog.models.values()
        for artifact, path in store.present(model, host.models(paths.home()))
        if artifact.format != "script"
    ]
    problems = []
    for _, model_id, artifact in sorted(found, key=lambda one: one[:2]):
        try:
            return resolve(catalog, host, Wish(model_id, quantization=artifact.quantization))
        except LlmctlError as error:
            problems.append(error.message)
    why = f": {problems[0]}" if problems else ""
    raise Refused(f"there is no model that {host.name} can run{why}", hint="llmctl pull MODEL", host=host.name)


def debug(
    home: Path, host: Host, spec: SlotSpec, launch: Launch, *, ready_within: float = READY_WITHIN, on_event: OnEvent
) -> Debugged:
    """Load, generate, end. LoadFailed with the last log lines when the engine does not come up or dies."""
    began = time.monotonic()
    launch = replace(launch, bind="127.0.0.1", require_key=False)
    port = scratch_port(home, host.ports)
    with _reserved(home, port, spec, launch), _server(port, spec, launch) as server:
        on_event(
            {"event": "note", "message": f"{spec.model} comes up with {spec.engine.engine} on scratch port {port}"}
        )
        server.wait_ready(ready_within)
        ready = time.monotonic() - began
        http = SlotHttp(launch.bind, port, None, ANSWER_WITHIN)
        http.chats = False
        try:
            said = http.whole(PROMPT, TOKENS, temperature=TEMPERATURE)
        except LlmctlError as error:
            raise server.failed(f"{spec.model} came up and did not answer: {error.message}") from None
    return Debugged(
        host.name, port, launch.backend, spec.model, spec.engine.engine, PROMPT, said.text, said.count,
        round(said.seconds, 3), round(said.count / said.seconds, 2), round(ready, 3),
    )  # fmt: skip


def scratch_port(home: Path, managed: tuple[int, int]) -> int:
    """A free port on loopback that is in no managed range and no slot's."""
    taken = set(slot_ports(home))
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken and not managed[0] <= port <= managed[1]:
            return port
    raise Refused("no free port outside of the managed range", hint="llmctl status")


class _Server:
    """A slot server under a keeper."""

    def __init__(self, folder: SlotFolder, process: subprocess.Popen[bytes], model: str) -> None:
        self.folder, self.process, self.model = folder, process, model

    def wait_ready(self, within: float) -> None:
        """Until the model has answered its probe."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            if said := self._ended():
                raise self.failed(f"the slot server of {self.model} {said}")
            with contextlib.suppress(Unreachable):
                row = control.call(self.folder.control, "status", timeout=5.0)
                if row["state"] == READY:
                    return
                if row["state"] in DEAD or (row["state"] == EMPTY and row["why"]):
                    raise self.failed(f"{self.model} did not come up: {row['why']}")
            time.sleep(EVERY)
        raise self.failed(f"{self.model} was not ready within {within:g} s")

    def failed(self, message: str) -> LoadFailed:
        """The error with the last lines of the log."""
        lines = (self.folder.home / keeper.OUTPUT).read_text(errors="replace").splitlines()
        return LoadFailed(message, details={"log": lines[-LOG_LINES:]})

    def _ended(self) -> str | None:
        assert self.process.stdout
        came, _, _ = select.select([self.process.stdout], [], [], 0)
        return (self.process.stdout.readline().decode().strip() or "was lost") if came else None


@contextlib.contextmanager
def _server(port: int, spec: SlotSpec, launch: Launch) -> Iterator[_Server]:
    """A slot server in a temporary state folder; however this process ends, both go."""
    home = Path(tempfile.mkdtemp(prefix="llmctl-scratch-"))
    folder = SlotFolder(home, port)
    argv = [sys.executable, *server_argv(folder, launch), "--foreground", json.dumps(spec.to_dict())]
    process = subprocess.Popen(
        [sys.executable, "-m", "llmctl.checks.keeper", str(home), *argv],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=own_environment(),
    )  # fmt: skip
    try:
        yield _Server(folder, process, spec.model)
    finally:
        assert process.stdin and process.stdout
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDED_WITHIN)
        process.stdout.close()


@contextlib.contextmanager
def _reserved(home: Path, port: int, spec: SlotSpec, launch: Launch) -> Iterator[None]:
    """The memory, as the ledger of this host's slots gives it out; it counts while this process lives."""
    memory, ledger = backends.get(launch.backend).memory(), Ledger(home)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    budget = launch.memory_budget or memory.total
    key, _ = ledger.reserve(port, spec.needed_bytes, free=memory.free, budget=budget, resident=0)
    try:
        yield
    finally:
        ledger.release(key)


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(os.stat(file).st_size for file in files)
