"""An operator with a configuration and an installed llmctl, whose hosts are a testbed's, and the models there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmctl import __version__
from tests.conftest import REPO
from tests.fleet.deploying import told_as
from tests.testbed.machines import Machine, Testbed

QUESTION = "What is a slot?"
MODELS = ("tiny-qwen2", "tiny-llama")
PROFILE = """\
description = "Both models on each host that runs it"

[[slots]]
port = 8101
model = "tiny-qwen2"

[[slots]]
port = 8102
model = "tiny-llama"
"""
_ENTRY = """
[models.{model}]
context = 1024
probe = {{ prompt = "{question}", expect = "A port", max_tokens = 24 }}
[[models.{model}.artifacts]]
format = "gguf"
quantization = "f16"
path = "/srv/models/{model}.gguf"
"""


class Operator:
    """A person in the control namespace, with a folder of configuration. `house` holds what the hosts need."""

    def __init__(self, testbed: Testbed, folder: Path, hosts: Sequence[Machine], house: Path) -> None:
        self.testbed, self.folder, self.house = testbed, folder, house
        self.env = {"LLMCTL_CONFIG": str(folder), "LLMCTL_HOME": str(folder / "home"), "NO_COLOR": "1"}
        (folder / "home").mkdir()
        (folder / "profiles").mkdir()
        (folder / "profiles" / "demo.toml").write_text(PROFILE)
        (folder / "models.toml").write_text("".join(_ENTRY.format(model=m, question=QUESTION) for m in MODELS))
        entries = (host.ssh_entry(bind='"0.0.0.0"', engines='["llamacpp"]') for host in hosts)
        (folder / "hosts.toml").write_text("\n".join(entries))
        self.install(__version__)

    def install(self, version: str) -> None:
        """From now on this operator has the code of this checkout, as that version."""
        self.code = self.folder / version
        shutil.copytree(REPO / "llmctl", self.code / "llmctl", ignore=shutil.ignore_patterns("__pycache__"))
        init = self.code / "llmctl" / "__init__.py"
        init.write_text(init.read_text().replace(__version__, version))
        told_as(self.code, version)

    def argv(self, *words: str) -> list[str]:
        return [str(REPO / ".venv" / "bin" / "python"), "-m", "llmctl", "--yes", *words]

    def ran(self, *words: str, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        env = {**self.env, "PYTHONPATH": str(self.code)}
        return self.testbed.run_in_control(self.argv(*words), timeout=timeout, env=env, cwd=self.folder)

    def envelope(self, *words: str, code: int = 0) -> Mapping[str, Any]:
        """What a command answers; its exit code must be `code`."""
        ran = self.ran("--json", *words)
        assert ran.returncode == code, f"{words}: {ran.returncode}\n{ran.stdout}\n{ran.stderr[-3000:]}"
        found: dict[str, Any] = json.loads(ran.stdout)
        return found

    def says(self, *words: str, code: int = 0) -> Any:
        """The data of the answer."""
        return self.envelope(*words, code=code)["data"]

    def fails(self, *words: str, code: int = 1) -> list[str]:
        """The codes of the errors that a command ends with."""
        return [error["code"] for error in self.envelope(*words, code=code)["errors"]]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on by itself."""
        env = {**os.environ, **self.env, "PYTHONPATH": str(self.code)}
        return subprocess.Popen(
            [*self.testbed.control, *self.argv("--json", *words)], env=env, cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def deploy(self, hosts: str = "h*", *more: str) -> tuple[str, ...]:
        """The words that bring hosts to this operator's version and to the profile."""
        given = ("--profile", "demo", "--offline", "--wheelhouse", str(self.house), "--lock-wait", "60s")
        return ("deploy", hosts, *given, *more)

    def slots(self, code: int = 0) -> dict[str, str]:
        """What `status` says of every slot: {"h1:8101": "ready tiny-qwen2"}."""
        slots = self.says("status", code=code)["slots"]
        return {f"{s['host']}:{s['port']}": f"{s['state']} {s['model']}" for s in slots}

    def hosts(self, code: int = 0) -> dict[str, str]:
        """What `status` says of every host, and its version."""
        return {h["host"]: f"{h['state']} {h['version']}" for h in self.says("status", code=code)["hosts"]}

    def pids(self) -> set[tuple[int, int]]:
        """The processes of all slots."""
        return {(slot["runner_pid"], slot["pid"]) for slot in self.says("status")["slots"]}

    def key(self, host: Machine) -> str:
        return str(self.says("keys", "show", "--host", host.name)["client"])

    def asks(self, host: Machine, port: int) -> str:
        """What the model on a port answers a client in the control namespace."""
        body = json.dumps({"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24})
        url = f"http://{host.address}:{port}/v1/chat/completions"
        headers = ["-H", f"Authorization: Bearer {self.key(host)}", "-H", "Content-Type: application/json"]
        ran = self.testbed.run_in_control(["curl", "-sS", *headers, "-d", body, url])
        assert ran.returncode == 0, ran.stderr
        return str(json.loads(ran.stdout)["choices"][0]["message"]["content"])


def green(*hosts: Machine) -> dict[str, str]:
    """What `Operator.slots` says when all is as the profile has it."""
    return {f"{host.name}:{port}": f"ready {model}" for host in hosts for port, model in enumerate(MODELS, 8101)}


def bring_models(host: Machine, tiny_models: Mapping[str, Path]) -> None:
    """The models lie on the host already, where models.toml says."""
    for name in MODELS:
        place = host.path(f"/srv/models/{name}.gguf")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_models[f"{name}-gguf"], place)
