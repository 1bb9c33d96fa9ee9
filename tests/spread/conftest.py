"""Two hosts that compute models together, and an operator who sits in the first one's network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmctl.slots import verbs
from tests.conftest import REPO, eventually
from tests.testbed.apart import Apart, apart
from tests.testbed.sshd import SshHost, introduce

PORT = 8101
QUESTION = "What is a slot?"
ANSWER = "A port"
SPREAD = ("--spread", "h1,h2")

PROFILE = f"""\
[[slots]]
port = {PORT}
host = "h1"
model = "tiny-llama"
engine = "torch"
spread = ["h1", "h2"]
"""


@dataclass
class Fleet:
    """The hosts h1 and h2 with the same models, and what an operator does with them."""

    apart: Apart
    folder: Path
    h1: SshHost
    h2: SshHost

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{PORT}"

    def configure(self, host: SshHost, models: Mapping[str, Path], **more: str) -> None:
        """What a host has, in its own configuration."""
        said = {"transport": '"local"', "backend": '"cpu"', "service": '"none"', **more}
        toml = f"[hosts.{host.name}]\n" + "".join(f"{key} = {value}\n" for key, value in said.items())
        host.configure(toml, "".join(map(_entry, models, models.values())))

    def ran(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "LLMCTL_CONFIG": str(self.folder), "LLMCTL_HOME": str(self.folder / "home")}
        argv = [str(REPO / ".venv" / "bin" / "python"), "-m", "llmctl", "--yes", "--json", *words]
        return subprocess.run(
            [*self.apart.inside(self.h1), *argv], env=env, capture_output=True, text=True, timeout=180
        )

    def says(self, *words: str) -> Any:
        """The data that a command answers with."""
        ran = self.ran(*words)
        assert ran.returncode == 0, f"{words}\n{ran.stdout}\n{ran.stderr[-3000:]}\n{self.log()}"
        return json.loads(ran.stdout)["data"]

    def fails(self, *words: str) -> dict[str, Any]:
        """The only error of a command."""
        ran = self.ran(*words)
        assert ran.returncode != 0, ran.stdout
        assert "Traceback" not in ran.stderr, ran.stderr
        envelope = json.loads(ran.stdout)
        (error,) = envelope["errors"]
        return {**error, "data": envelope["data"]}

    def slot(self) -> verbs.SlotStatus:
        """What the first host's slot says of itself."""
        return verbs.status(self.h1.home / ".llmctl", [PORT])[0]

    def ranks(self) -> list[int]:
        """The processes on the second host that compute shares."""
        netns, found = os.stat(f"/run/netns/{self.apart.netns(self.h2)}").st_ino, []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.stat(path / "ns" / "net").st_ino == netns and b"llmctl.runner.rank" in (
                    path / "cmdline"
                ).read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def log(self) -> str:
        path = self.h1.home / ".llmctl" / "slots" / str(PORT) / "engine.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def ask(self, prompt: str = QUESTION, max_tokens: int = 48) -> str:
        """What the model says, greedily."""
        with self.apart.clients(self.h1, 1) as thread:
            return thread.submit(complete, self.url, prompt, max_tokens).result()

    def stream(self, until: threading.Event) -> list[str]:
        """Begin a long answer; its lines, all of them once it has ended. `until` is set when some have come."""
        lines: list[str] = []

        def read() -> None:
            body = {"prompt": QUESTION, "max_tokens": 900, "temperature": 0, "ignore_eos": True, "stream": True}
            with CLIENT.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
                for line in answer.iter_lines():
                    if line:
                        lines.append(line)
                    if len(lines) > 3:
                        until.set()

        with self.apart.clients(self.h1, 1) as thread:
            try:
                thread.submit(read).result()
            finally:
                until.set()
        return lines


CLIENT = httpx.Client(trust_env=False, verify=False, timeout=120, limits=httpx.Limits(max_keepalive_connections=0))
"""One for all threads; its connections are made in the network of the thread that asks."""


def complete(url: str, prompt: str, max_tokens: int) -> str:
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    answer = CLIENT.post(f"{url}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def _entry(model: str, path: Path) -> str:
    return (
        f"[models.{model}]\ncontext = 1024\n"
        f'probe = {{ prompt = "{QUESTION}", expect = "{ANSWER}", max_tokens = 24 }}\n'
        f'[[models.{model}.artifacts]]\nformat = "safetensors"\npath = "{path}"\n'
    )


@dataclass
class Load:
    """Clients that ask without a pause; `failed` is what went wrong, each time."""

    fleet: Fleet
    clients: int = 2
    served: int = 0
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._over = threading.Event()
        self._pool = self.fleet.apart.clients(self.fleet.h1, self.clients)
        for _ in range(self.clients):
            self._pool.submit(self._ask)
        eventually(lambda: self.served > self.clients)
        return self

    def __exit__(self, *_: object) -> None:
        before = self.served
        eventually(lambda: self.served > before + self.clients)
        self._over.set()
        self._pool.shutdown()

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                said = complete(self.fleet.url, QUESTION, 16)
                assert ANSWER in said, said
                self.served += 1
                time.sleep(0.15)
            except Exception as error:
                self.failed.append(repr(error))
                time.sleep(0.05)


@pytest.fixture(scope="package")
def fleet(tiny_models: dict[str, Path]) -> Iterator[Fleet]:
    """Both hosts have tiny-llama and tiny-qwen2, and `torn`, of which a weight is missing."""
    with apart() as found:
        h1, h2 = found.hosts
        folder = found.folder / "op"
        (folder / "home").mkdir(parents=True)
        torn = found.folder / "torn"
        shutil.copytree(tiny_models["tiny-llama"], torn)
        tear(torn / "model.safetensors")
        models = {"tiny-llama": tiny_models["tiny-llama"], "tiny-qwen2": tiny_models["tiny-qwen2"], "torn": torn}
        made = Fleet(found, folder, h1, h2)
        for host in (h1, h2):
            made.configure(host, models)
        (folder / "profiles").mkdir()
        (folder / "profiles" / "both.toml").write_text(PROFILE)
        introduce((h1, h2), folder, folder / "home")
        yield made


def tear(file: Path) -> None:
    """Take the last layer's matrix out of a safetensors file, as if it had never been written."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as weights:
        kept = {name: weights.get_tensor(name) for name in weights.keys() if "layers.1.mlp.down" not in name}  # noqa: SIM118
    save_file(kept, file, {"format": "pt"})
