"""test-models of other hosts: run there side by side, told what to test by the testing.toml here, proved here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from tests.testbed.sshd import SshHost, introduce, needs_sshd, ssh_hosts

pytestmark = [needs_sshd, pytest.mark.models]
Run = Callable[..., tuple[int, dict[str, Any]]]
ENTRY = """[models.m-tiny]
probe = {{ prompt = "What is a slot?", expect = "A port", max_tokens = 24 }}
[[models.m-tiny.artifacts]]
format = "gguf"
path = "{}"
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Iterator[list[SshHost]]:
    """h1 and h2, each with a real model; h3 without llmctl."""
    with ssh_hosts(tmp_path_factory.mktemp("hosts"), ("h1", "h2", "h3")) as found:
        for host in found[:2]:
            host.install()
            host.configure(f'[hosts.{host.name}]\nservice = "none"\n', ENTRY.format(tiny_models["tiny-llama-gguf"]))
        yield found


@pytest.fixture
def run(
    hosts: list[SshHost],
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    introduce(hosts, tmp_path, home)
    (tmp_path / "qa.toml").write_text('[[pairs]]\nquestion = "What is a model?"\nanswer = "A wrong answer."\n')
    said = 'context = 512\n[[questions]]\nmodels = ["m-*"]\nfile = "qa.toml"\n[hosts.h2]\nlargest = 1000\n'
    (tmp_path / "testing.toml").write_text(said)
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["test-models", "--model=m-*", "--engine=llamacpp", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_hosts_do_as_the_testing_toml_here_says(run: Run, home: Path, hosts: list[SshHost]) -> None:
    code, envelope = run("--host", "h*")
    rows = {row["host"]: row for row in envelope["data"]["rows"]}
    assert (code, set(rows)) == (1, {"h1", "h2"}), envelope
    assert rows["h1"]["status"] == "fail" and "asked 'What is a model?', it says" in rows["h1"]["why"]
    assert rows["h2"]["status"] == "skip" and "testing.toml allows" in rows["h2"]["why"]
    assert [(error["host"], error["code"]) for error in envelope["errors"]] == [("h3", "not_deployed")]
    proof = Path(envelope["data"]["proof"])
    assert proof.is_relative_to(home / "proof") and not (hosts[0].home / ".llmctl" / "proof").exists()
    text = "".join(path.read_text() for path in proof.iterdir())
    assert '"host-1"' in text and [word for word in ("h1", "127.0.0.1", str(home)) if f'"{word}"' in text] == []


def test_a_host_without_llmctl_alone(run: Run) -> None:
    code, envelope = run("--host", "h3")
    assert code == 1 and envelope["data"]["proof"] is None and envelope["errors"][0]["code"] == "not_deployed"
