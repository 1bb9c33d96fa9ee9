"""Smoke and debug-inference of other hosts: asked there, answered and proved here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from tests.conftest import free_port
from tests.testbed.sshd import SshHost, introduce, needs_sshd, ssh_hosts

pytestmark = needs_sshd
Run = Callable[..., tuple[int, dict[str, Any]]]
PORTS: dict[str, int] = {}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Iterator[list[SshHost]]:
    """h1 and h2, each with a real model on a port; h3 without llmctl."""
    entry = '[models.tiny]\n[[models.tiny.artifacts]]\nformat = "gguf"\npath = "{}"\n'
    with ssh_hosts(tmp_path_factory.mktemp("hosts"), ("h1", "h2", "h3")) as found:
        for host in found[:2]:
            PORTS[host.name] = free_port()
            host.install()
            host.configure(
                f'[hosts.{host.name}]\nservice = "none"\nports = [{PORTS[host.name]}, {PORTS[host.name]}]\n',
                entry.format(tiny_models["tiny-llama-gguf"]),
            )
            there(host, "load", str(PORTS[host.name]), "tiny", "--context", "512")
        yield found


def there(host: SshHost, *words: str) -> None:
    """A command typed on the host itself."""
    program, environment = host.home / ".llmctl/bin/llmctl", {"HOME": str(host.home), "PATH": os.environ["PATH"]}
    subprocess.run([str(program), *words], env=environment, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def run(
    hosts: list[SshHost],
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    introduce(hosts, tmp_path, home)
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def statuses(envelope: dict[str, Any], host: str) -> set[str]:
    return {row["status"] for row in envelope["data"]["rows"] if row["host"] == host}


def test_slots_of_two_hosts_are_proved_here(run: Run, home: Path, hosts: list[SshHost]) -> None:
    code, envelope = run("smoke", "h1", f"h2:{PORTS['h2']}")
    assert code == 0, envelope
    assert statuses(envelope, "h1") == statuses(envelope, "h2") == {"pass", "skip"}
    proof = Path(envelope["data"]["proof"])
    assert proof.is_relative_to(home / "proof") and not (hosts[0].home / ".llmctl" / "proof").exists()
    text = "".join(path.read_text() for path in proof.iterdir())
    assert [word for word in ("h1", "h2", "127.0.0.1", str(home), str(hosts[0].home)) if f'"{word}"' in text] == []
    assert '"host-1"' in text and '"host-2"' in text and "xllamacpp" in text


def test_what_is_reached_and_what_is_not(run: Run) -> None:
    code, envelope = run("smoke", "h*")
    assert code == 3 and envelope["status"] == "partial"
    assert statuses(envelope, "h1") == {"pass", "skip"}
    assert [(error["host"], error["code"]) for error in envelope["errors"]] == [("h3", "not_deployed")]
    code, envelope = run("smoke", "h3")
    assert code == 1 and envelope["data"]["proof"] is None


def test_a_host_that_is_off(run: Run, tmp_path: Path, hosts: list[SshHost]) -> None:
    dead = hosts[0].entry().replace(f"ssh_port = {hosts[0].port}", f"ssh_port = {free_port()}")
    (tmp_path / "hosts.toml").write_text(dead)
    code, envelope = run("smoke", "h1")
    assert code == 4 and envelope["data"]["proof"] is None and envelope["data"]["rows"] == []


def test_an_unknown_port_and_host(run: Run) -> None:
    code, envelope = run("smoke", "h1:8139")
    assert code == 2 and "8139" in envelope["errors"][0]["message"]
    assert run("smoke", "h9")[0] == 2


def test_a_model_says_something_on_another_host(run: Run) -> None:
    code, envelope = run("debug-inference", "h2")
    assert code == 0 and envelope["data"]["host"] == "h2" and envelope["data"]["tokens"] > 0
    code, envelope = run("debug-inference", "h2", "--model", "nothing")
    assert code == 2 and envelope["errors"][0]["host"] == "h2"
