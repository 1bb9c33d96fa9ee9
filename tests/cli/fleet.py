"""A fleet for tests of the command line: hosts over real ssh with scripted models, and one that is down."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from tests.conftest import free_port
from tests.testbed.sshd import SshHost, ssh_hosts

NAMES = ("gpu1", "gpu2", "dead")
MODELS = {
    "alpha": {"answers": {"Who?": "I am alpha."}},
    "beta": {"answers": {"Who?": "I am beta."}},
    "broken": {"fail": "load"},
    "slow": {"load": 3.0},
    "chatty": {"length": 400, "step": 0.05},
}


@dataclass(frozen=True)
class Result:
    """What one command line did."""

    code: int
    data: dict[str, Any]
    errors: list[dict[str, Any]]
    err: str


@dataclass
class Fleet:
    """gpu1 and gpu2 run llmctl, dead does not answer. `ports` are those of both: they share this machine's ports."""

    hosts: dict[str, SshHost]
    ports: dict[str, tuple[int, int]]
    config: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *argv: object) -> Result:
        """Run `llmctl ARGV --json`."""
        code, out, err = self.text("--json", *argv)
        envelope = json.loads(out)
        assert envelope["exit_code"] == code
        return Result(code, envelope["data"], envelope["errors"], err)

    def text(self, *argv: object) -> tuple[int, str, str]:
        """Run `llmctl ARGV`: exit code, stdout, stderr."""
        self.capsys.readouterr()
        code = main([*map(str, argv)])
        shown = self.capsys.readouterr()
        return code, shown.out, shown.err

    def at(self, host: str, index: int = 0) -> str:
        return f"{host}:{self.ports[host][index]}"

    def configure(self, head: str = "", **more: dict[str, str]) -> None:
        """Write the operator's hosts.toml: `head` first, further lines of the entries in `more`."""
        entries = [host.entry(**more.get(name, {})) for name, host in self.hosts.items()]
        (self.config / "hosts.toml").write_text("\n".join([head, *entries]))

    def profile(self, name: str, text: str) -> None:
        (self.config / "profiles").mkdir(exist_ok=True)
        (self.config / "profiles" / f"{name}.toml").write_text(text)

    def model(self, slot: str) -> str | None:
        """What HOST:PORT runs."""
        found: str | None = self("status", slot).data["slots"][0]["model"]
        return found


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[dict[str, SshHost], dict[str, tuple[int, int]]]]:
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder, ssh_hosts(Path(folder), NAMES) as hosts:
        ports = {}
        for host in hosts:
            host.install()
            ports[host.name] = (free_port(), free_port())
            low, high = ports[host.name]
            models = ""
            for model, play in MODELS.items():
                path = host.home / f"{model}.json"
                path.write_text(json.dumps(play))
                models += f'[models.{model}]\nartifacts = [{{ format = "script", path = "{path}" }}]\n'
            host.configure(f"[hosts.{host.name}]\nports = [{low}, {high}]\n", models)
        hosts[-1].stop()
        yield {host.name: host for host in hosts}, ports


@pytest.fixture
def fleet(
    machines: tuple[dict[str, SshHost], dict[str, tuple[int, int]]],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Result]:
    """The operator's side of it, with a configuration and trusted keys of the test's own."""
    hosts, ports = machines
    (tmp_path / "models.toml").write_text(
        "".join(f'[models.{name}]\nartifacts = [{{ format = "script", path = "{name}.json" }}]\n' for name in MODELS)
    )
    (home / "known_hosts").write_text("".join(host.known() for host in hosts.values()))
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))
    found = Fleet(hosts, ports, tmp_path, capsys)
    found.configure(gpu1={"labels": '["fast", "left"]'}, gpu2={"labels": '["fast"]'})
    return found


@pytest.fixture
def emptied(fleet: Fleet) -> Iterator[None]:
    """After the test no slot of a host has a model or is disabled."""
    yield
    fleet.configure()
    for row in fleet("status", "--host", "gpu*").data["slots"]:
        where = f"{row['host']}:{row['port']}"
        if row["state"] == "disabled":
            fleet("enable", where)
        if row["model"]:
            fleet("unload", where)
