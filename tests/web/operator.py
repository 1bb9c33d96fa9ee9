"""The real thing: `llmctl web` as an operator starts it, over a real slot with scripted models."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmctl import keys
from llmctl.history import NAME
from llmctl.history.store import Check, History
from tests.conftest import DEADLINE, RunningSlot, free_port

MODELS = {
    "alpha": {"answers": {"Who?": "I am alpha."}},
    "beta": {"answers": {"Who?": "I am beta."}},
    "broken": {"fail": "load"},
}


class Operator:
    """One running `llmctl web`."""

    def __init__(self, home: Path, slot: RunningSlot, config: Path) -> None:
        self.home, self.slot = home, slot
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        argv = [sys.executable, "-m", "llmctl", "--config-dir", str(config), "web", "--port", str(self.port)]
        self.output = config / "output"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen([*argv, "--every", "0.2s"], stdout=output, stderr=output)
        end = time.monotonic() + DEADLINE
        while "Ctrl-C ends it" not in self.output.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.output.read_text()
            time.sleep(0.05)

    def key(self, role: str) -> str:
        return keys.show(self.home)[role]

    def end(self) -> int:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE)


@pytest.fixture
def operator(
    home: Path, tmp_path: Path, script: Callable[..., object], slots: Callable[..., RunningSlot]
) -> Iterator[Operator]:  # fmt: skip
    """It shows the host `here`, whose slot runs alpha."""
    slot = slots(script("alpha", **MODELS["alpha"]))
    models = ""
    for name, play in MODELS.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(play))
        models += f'[models.{name}]\nartifacts = [{{ format = "script", path = "{path}" }}]\n'
    (tmp_path / "models.toml").write_text(models)
    (tmp_path / "hosts.toml").write_text('[hosts.here]\ntransport = "local"\nservice = "none"\n')
    now = time.time()
    with History.open(home / NAME) as history:
        for at in range(10):
            history.checked([Check("here", slot.port, now - 600 * (10 - at), "ok", "", "alpha", 0.2, 50.0 + at)])
        history.open_incident("here", slot.port, now - 60, "degraded", "first token after 1.20 s, usually 0.20 s")
    made = Operator(home, slot, tmp_path)
    yield made
    with contextlib.suppress(ProcessLookupError):
        made.process.kill()
    made.process.wait(DEADLINE)
