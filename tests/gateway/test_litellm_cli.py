"""`llmctl gateway render litellm` and `llmctl gateway up --engine litellm`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmctl.domain import GATEWAY
from tests.conftest import eventually, free_port
from tests.gateway.around import DEEP, FAST, LATE, Machine, machine
from tests.gateway.test_litellm_env import environment
from tests.gateway.test_litellm_server import stand_in

__all__ = ["machine"]
Capture = pytest.CaptureFixture[str]


def test_the_configuration_is_what_stdout_has_or_a_file(machine: Machine, capsys: Capture, tmp_path: Path) -> None:
    code, out, _ = machine.shown(capsys, "gateway", "render", "litellm", "--redis", "10.0.0.7")
    data = yaml.safe_load(out)
    assert code == 0 and [row["model_name"] for row in data["model_list"]] == ["alpha", "beta", DEEP, FAST, LATE]
    assert data["router_settings"]["redis_host"] == "10.0.0.7"
    made = machine.llmctl(capsys, "gateway", "render", "litellm")["data"]
    assert f"registry {made['hash']}" in made["text"].splitlines()[0]
    assert machine.llmctl(capsys, "gateway", "render", "litellm")["data"] == made
    note = f"{LATE}: {machine.where(LATE)} is loaded on demand, which LiteLLM cannot ask for"
    assert made["notes"] == [note] and f"# {note}" in out
    code, out, _ = machine.shown(capsys, "gateway", "render", "litellm", "--out", tmp_path / "a" / "litellm.yaml")
    assert code == 0 and out.startswith("wrote ")
    assert (tmp_path / "a" / "litellm.yaml").read_text() == made["text"]


@pytest.mark.parametrize(
    ("words", "code", "what", "hint"),
    [
        (("--engine", "nope"), 2, "--engine 'nope' is none", "--engine litellm"),
        (("--redis", "10.0.0.7"), 2, "--redis and --python are of a LiteLLM", "--engine litellm"),
        (("--engine", "litellm", "--redis", "a b"), 2, "'a b' is no address of a Redis", "--redis HOST:6379"),
        (("--engine", "litellm", "--python", "/nowhere/bin/python"), 1, "has no LiteLLM", "without --python"),
    ],
)
def test_what_cannot_be_is_told_with_what_to_type(
    machine: Machine, capsys: Capture, words: tuple[str, ...], code: int, what: str, hint: str
) -> None:
    error = machine.llmctl(capsys, "gateway", "up", "--port", free_port(), *words, code=code)["errors"][0]
    assert what in error["message"] and hint in error["hint"]


def test_a_bad_release_and_a_port_with_our_own_gateway_are_refused(
    machine: Machine, capsys: Capture, tmp_path: Path
) -> None:
    bad, good = environment(tmp_path / "bad", "1.82.7"), stand_in(tmp_path / "good")
    up = ("gateway", "up", "--engine", "litellm", "--port")
    error = machine.llmctl(capsys, *up, free_port(), "--python", bad, code=1)["errors"][0]
    assert "known as bad" in error["message"] and "installs another release" in error["hint"]
    error = machine.llmctl(capsys, *up, machine.ports["gateway"], "--python", good, code=1)["errors"][0]
    assert "is llmctl's own" in error["message"] and "llmctl gateway down" in error["hint"]


def test_up_status_and_down(machine: Machine, capsys: Capture, tmp_path: Path) -> None:
    port, python = free_port(), stand_in(tmp_path / "good")
    machine.ports["litellm"] = port
    up = ("gateway", "up", "--engine", "litellm", "--port", port, "--python", python)
    assert machine.llmctl(capsys, *up)["data"]["started"]
    eventually(lambda: machine.slot("litellm").state() == "ready")
    before = machine.slot("litellm").engine_pid()
    assert not machine.llmctl(capsys, *up, "--redis", "127.0.0.1:1")["data"]["started"]  # and takes that up
    eventually(lambda: machine.slot("litellm").engine_pid() not in (None, before))
    code, out, _ = machine.shown(capsys, "gateway", "status", "--port", port)
    assert code == 0 and f"port {port} · litellm · ready" in out and "is loaded on demand" in out
    row = next(row for row in machine.llmctl(capsys, "status")["data"]["slots"] if row["port"] == port)
    assert (row["model"], row["engine"]) == ("litellm", GATEWAY)
    assert machine.llmctl(capsys, "gateway", "down", "--port", port)["data"]["down"]
    assert machine.slot("litellm").state() == "empty"
