"""The slot verbs as an operator types them, on scripted models: what they print, and what they leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, free_port

PROFILE = """\
[[slots]]
port = {0}
model = "alpha"
handle = "quick"
[[slots]]
port = {1}
model = "broken"
"""


@pytest.fixture
def ports(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Two free ports, and a configuration with the models alpha, beta and broken; ends their slot servers."""
    two = (free_port(), free_port())
    models = ""
    for name, play in {"alpha": {"answers": {"Who?": "I am alpha."}}, "beta": {}, "broken": {"fail": "load"}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(play))
        models += f'[models.{name}]\nartifacts = [{{ format = "script", path = "{name}.json" }}]\n'
    (tmp_path / "models.toml").write_text(models)
    (tmp_path / "hosts.toml").write_text(f"[hosts.here]\nports = [{two[0]}, {two[1]}]\n")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "both.toml").write_text(PROFILE.format(*two))
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))
    yield two
    for port in two:
        RunningSlot(home, port, Launch()).kill()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """run("load", ...) → (exit code, the data, stderr), of the verb with --json."""

    def call(*argv: object) -> tuple[int, dict[str, Any], str]:
        code = main([*map(str, argv), "--json"])
        shown = capsys.readouterr()
        envelope = json.loads(shown.out)
        return code, {**envelope["data"], "errors": envelope["errors"]}, shown.err

    return call


Run = Callable[..., tuple[int, dict[str, Any], str]]


def test_a_slots_life(ports: tuple[int, int], run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    port = ports[0]
    code, data, events = run("load", "auto", "ALPHA")
    assert (code, data["host"], data["port"], data["model"], data["state"]) == (0, "here", port, "alpha", "ready")
    assert {json.loads(line)["event"] for line in events.splitlines()} >= {"stage"}

    assert run("load", port, "alpha")[0] == 0  # loading what is there is no error
    code, data, _ = run("load", port, "beta")
    assert (code, data["errors"][0]["hint"]) == (1, f"llmctl swap {port} beta")

    row = run("status", port)[1]["slots"][0]
    wanted = {"host", "port", "model", "engine", "state", "pid", "runner_pid", "handles", "since", "memory_bytes"}
    assert set(row) >= {*wanted, "tokens_per_second"}
    assert (row["model"], row["state"], row["host"]) == ("alpha", "ready", "here")

    assert run("ask", port, "Who?")[1]["answer"] == "I am alpha."
    assert main(["ask", "alpha", "Who?"]) == 0
    assert capsys.readouterr().out == "I am alpha.\n"

    code, data, _ = run("swap", port, "beta", "--save", "--profile", "both")
    assert (code, data["model"], data["previous"]) == (0, "beta", "alpha")
    assert data["saved"] == str(tmp_path / "profiles" / "both.toml")
    assert (tmp_path / "profiles" / "both.toml").read_text() == PROFILE.format(*ports).replace("alpha", "beta")

    code, data, _ = run("swap", port, "broken")
    assert (code, data["errors"][0]["code"]) == (1, "load_failed")
    assert run("status", port)[1]["slots"][0]["model"] == "beta"

    assert run("restart", port)[1]["model"] == "beta"
    assert run("logs", port, "-n", 2)[1]["lines"]
    assert run("disable", port, "--why", "tests", "--until", "2h")[1]["state"] == "disabled"
    assert run("status", port)[1]["slots"][0]["why"] == "tests"
    assert run("enable", port)[1]["state"] == "ready"

    assert run("unload", port)[1]["model"] is None
    assert run("ask", port, "Who?")[0] == 1  # the slot server says that nothing is loaded


def test_a_stopped_server_leaves_a_closed_port(ports: tuple[int, int], run: Run) -> None:
    argv = [sys.executable, "-m", "llmctl", "load", str(ports[0]), "alpha"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    assert run("unload", ports[0], "--stop-server")[1]["state"] == "empty"
    assert run("ask", ports[0], "Who?")[0] == 4


def test_a_dry_run_changes_nothing(ports: tuple[int, int], run: Run, home: Path) -> None:
    code, data, _ = run("load", ports[0], "alpha", "--dry-run")
    assert (code, data["would"], data["engine"]) == (0, "load", "scripted")
    assert not (home / "slots").exists()


def test_a_profile_is_loaded_slot_by_slot(ports: tuple[int, int], run: Run, tmp_path: Path) -> None:
    code, data, _ = run("profile", "diff", "both")
    assert (code, [step["action"] for step in data["steps"]]) == (1, ["load", "load"])
    code, data, _ = run("profile", "load", "both")
    assert code == 3  # alpha came up, broken did not
    assert [slot["model"] for slot in data["slots"]] == ["alpha"]
    assert (data["errors"][0]["code"], data["errors"][0]["port"]) == ("load_failed", ports[1])
    assert run("ask", "quick", "Who?")[1]["model"] == "alpha"

    assert run("profile", "save", "now")[0] == 0
    assert run("profile", "diff", "now")[0] == 0
    code, data, _ = run("profile", "load", "now")
    assert (code, [slot["state"] for slot in data["slots"]]) == (0, ["ready"])
    code, data, _ = run("profile", "unload", "both")
    assert (code, [slot["port"] for slot in data["slots"]]) == (0, [ports[0]])
    assert run("status", ports[0])[1]["slots"][0]["state"] == "empty"


def test_keys_are_shown_and_changed_only_with_consent(home: Path, run: Run) -> None:
    before = run("keys", "show")[1]
    assert run("keys", "rotate")[0] == 1
    assert run("keys", "show")[1] == before
    after = run("keys", "rotate", "--yes")[1]
    assert after["client"] != before["client"]
