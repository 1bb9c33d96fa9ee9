"""What tests share: a state folder of their own, running slots, and the tiny models."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import EngineSpec, Limits, Probe, SlotSpec
from llmctl.slots import verbs
from llmctl.slots.state import Launch, SlotFolder

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Started in the background a test run ignores SIGINT, and so would every process that it starts."""

REPO = Path(__file__).parents[1]
DEADLINE = 60.0
_ports = itertools.count(int(os.environ.get("LLMCTL_TEST_PORTS") or 21000 + os.getpid() % 500 * 20))
"""Runs beside each other must not look for free ports in the same places."""


def eventually(what: Callable[[], Any], within: float = DEADLINE, every: float = 0.02) -> Any:
    """The first true value of `what()`; fails after `within` seconds, a deadline many times what is seen."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(every)
    raise AssertionError(f"not within {within} s: {what}")


def free_port() -> int:
    """A port nobody listens on."""
    for port in _ports:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


@dataclass
class RunningSlot:
    """A slot server with its engine, as tests use it."""

    home: Path
    port: int
    launch: Launch
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def folder(self) -> SlotFolder:
        return SlotFolder(self.home, self.port)

    def status(self) -> verbs.SlotStatus:
        return verbs.status(self.home, [self.port])[0]

    def engine_pid(self) -> int | None:
        return self.status().pid

    def server_pid(self) -> int | None:
        return self.status().runner_pid

    def state(self) -> str:
        return self.status().state

    def change(self, action: str, spec: SlotSpec, **options: Any) -> verbs.ChangeResult:
        return verbs.change(
            self.home, self.port, action, spec, launch=self.launch, on_event=self.events.append, **options
        )

    def log(self) -> str:
        return self.folder.log.read_text(errors="replace")

    def kill(self) -> None:
        """End the server and whatever engine it has, however it is."""
        with contextlib.suppress(Exception):
            pid = self.server_pid()
            if pid:
                os.kill(pid, signal.SIGKILL)
                eventually(lambda: not os.path.exists(f"/proc/{pid}") or _zombie(pid))


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of the test's own, as LLMCTL_HOME; short, since sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="llm-"))
    monkeypatch.setenv("LLMCTL_HOME", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def script(home: Path) -> Callable[..., SlotSpec]:
    """script("a", answers={...}, load=0.1, ...) → the spec of a scripted model (llmctl.engines.scripted)."""

    def make(
        model: str = "alpha", *, parallel: int = 4, names: tuple[str, ...] = (), probe: Probe = Probe(),
        idle_unload: float | None = None, load_timeout: float = 30.0, needed: int = 1_000_000, **play: Any,
    ) -> SlotSpec:  # fmt: skip
        path = home / f"{model}.script.json"
        path.write_text(json.dumps(play))
        engine = EngineSpec("scripted", model, str(path), "script", context=1024, parallel=parallel)
        return SlotSpec(
            engine, names=names, probe=probe, needed_bytes=needed, idle_unload=idle_unload, load_timeout=load_timeout
        )

    return make


@pytest.fixture
def slots(home: Path) -> Iterator[Callable[..., RunningSlot]]:
    """slots(spec, launch=Launch(...)) → a running slot with `spec` loaded (None: empty); all end with the test."""
    running: list[RunningSlot] = []

    def start(spec: SlotSpec | None = None, launch: Launch | None = None) -> RunningSlot:
        slot = RunningSlot(home, free_port(), launch or Launch(limits=Limits(drain=5.0)))
        running.append(slot)
        if spec:
            slot.change("load", spec)
        else:
            verbs.ensure_server(home, slot.port, slot.launch)
        return slot

    yield start
    for slot in running:
        slot.kill()


@pytest.fixture
def scripted_slot(slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec]) -> RunningSlot:
    """A running slot with a scripted model `alpha`, alias `first`."""
    return slots(script("alpha", names=("first",), answers={"What is a slot?": "A port on a host."}))


@pytest.fixture(scope="session")
def tiny_models() -> dict[str, Path]:
    """The tiny checkpoints, trained once and cached by content: {name: path}."""
    made = subprocess.run([REPO / "scripts" / "tiny-models", "--gguf"], stdout=subprocess.PIPE, check=True)
    return {name: Path(path) for name, path in json.loads(made.stdout).items()}


@pytest.fixture(scope="session")
def embed_model() -> dict[str, Path]:
    """The tiny models that embed and rerank, with their GGUF twins, made once: {name: path}."""
    made = subprocess.run([REPO / "scripts" / "tiny-embed"], stdout=subprocess.PIPE, check=True)
    return {name: Path(path) for name, path in json.loads(made.stdout).items()}


@pytest.fixture(scope="session")
def vision_model() -> dict[str, Path]:
    """The tiny vision model, trained once and cached by content: {"tiny-vision" | "…-gguf" | "…-mmproj": path}."""
    made = subprocess.run([REPO / "scripts" / "tiny-vision"], stdout=subprocess.PIPE, check=True)
    return {name: Path(path) for name, path in json.loads(made.stdout).items()}


@pytest.fixture(scope="session")
def tool_model() -> dict[str, Path]:
    """The tiny model that calls tools and thinks, trained once: {"tiny-tools" | "tiny-tools-gguf": path}."""
    made = subprocess.run([REPO / "scripts" / "tiny-tools"], stdout=subprocess.PIPE, check=True)
    return {name: Path(path) for name, path in json.loads(made.stdout).items()}
