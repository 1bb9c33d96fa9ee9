"""One model's whole way, as an operator types it: pull → convert → gate → fit → load → ask, for mlx, gguf and torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.models.convert import fetch
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, free_port
from tests.testbed.hub import Hub

QUESTION, ANSWER = "What is a slot?", "A port on a host that holds at most one model."
ENTRY = """\
[models.traveller]
aliases = ["trav"]
licence = "apache-2.0"
artifacts = [{ format = "safetensors", quantization = "f32", source = "tests/Traveller" }]
probe = { prompt = "What is a slot?", expect = "A port on a host" }
"""


@pytest.fixture
def hub(tiny_models: dict[str, Path], tmp_path: Path) -> Iterator[Hub]:
    repo = tmp_path / "repos" / "tests" / "Traveller"
    shutil.copytree(tiny_models["tiny-qwen2"], repo)
    with Hub(tmp_path / "repos") as running:
        yield running


@pytest.fixture
def port(home: Path) -> Iterator[int]:
    free = free_port()
    yield free
    RunningSlot(home, free, Launch()).kill()


def operator(hub: Hub, home: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """llmctl as it is typed; its data and its errors."""
    (tmp_path / "hosts.toml").write_text("[hosts.here]\nbackend = 'cpu'\n")
    (tmp_path / "models.toml").write_text(ENTRY)
    environment = {
        **os.environ, "LLMCTL_CONFIG": str(tmp_path), "LLMCTL_HOME": str(home), "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
    }  # fmt: skip
    environment.pop("HF_TOKEN", None)

    def llmctl(*words: object, code: int = 0) -> dict[str, Any]:
        argv = [sys.executable, "-m", "llmctl", "--json", *map(str, words)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path)
        envelope = json.loads(done.stdout)
        assert done.returncode == envelope["exit_code"] == code, (words, envelope, done.stderr[-3000:])
        return {**envelope["data"], "errors": envelope["errors"]}

    return llmctl


def test_pull_convert_gate_fit_load_ask(
    hub: Hub, home: Path, port: int, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    (home / "converters").mkdir()
    os.link(
        tiny_models["tiny-qwen2"].parents[1] / "converters" / fetch.SOURCE.archive,
        home / "converters" / fetch.SOURCE.archive,
    )
    llmctl = operator(hub, home, tmp_path)
    hint = llmctl("load", port, "traveller", code=1)["errors"][0]["hint"]
    assert hint == "llmctl pull traveller"
    brought = llmctl("load", port, "trav", "--engine", "torch", "--pull")
    assert (brought["model"], brought["engine"]) == ("traveller", "torch")
    llmctl("unload", port)
    llmctl("pull", "Trav")
    llmctl("models", "verify", "traveller")

    kinds = {
        ("mlx", "8bit"): ("convert", "traveller", "--to", "mlx", "--quantization", "8bit"),
        ("gguf", "q8_0"): ("convert", "traveller", "--to", "gguf", "--quantization", "q8_0"),
        ("safetensors", "bf16"): ("convert", "traveller", "--to", "torch", "--quantization", "bf16"),
    }
    for command in kinds.values():
        llmctl(*command)
    shown = llmctl("models", "show", "traveller")
    both = zip(shown["artifacts"], shown["local"], strict=True)
    here = {(a["format"], a["quantization"]): local for a, local in both if a["path"]}
    assert set(here) == {("safetensors", "f32"), *kinds}
    for kind in (("mlx", "8bit"), ("gguf", "q8_0")):
        assert here[kind]["quality"]["passed"], here[kind]

    engines = {("mlx", "8bit"): "mlx", ("gguf", "q8_0"): "llamacpp", ("safetensors", "bf16"): "torch"}
    for kind, engine in engines.items():
        choice = ("--engine", engine, "--quantization", kind[1], "--parallel", 2)
        [fit] = llmctl("models", "fit", "traveller", *choice)["fits"]
        assert (fit["format"], fit["engine"], fit["fits"]) == (kind[0], engine, True)
        assert fit["largest_context"] >= 512

        verb = "load" if kind == ("mlx", "8bit") else "swap"
        loaded = llmctl(verb, port, "traveller", *choice)
        assert loaded["engine"] == engine
        answer = llmctl("ask", port, QUESTION, "--temperature", 0, "--max-tokens", 32)["answer"]
        assert answer.strip() == ANSWER

    refused = llmctl("models", "rm", "traveller", "--format", "safetensors", "--quantization", "bf16", "--yes", code=1)
    assert str(port) in refused["errors"][0]["message"]
    llmctl("models", "rm", "traveller", "--format", "mlx", "--yes")
    assert not (home / "models" / "traveller" / "mlx-8bit").exists()


def test_apply_fetches_what_a_profile_needs(hub: Hub, home: Path, port: int, tmp_path: Path) -> None:
    llmctl = operator(hub, home, tmp_path)
    (tmp_path / "profiles").mkdir()
    slot = f'[[slots]]\nport = {port}\nmodel = "traveller"\nengine = "torch"\nparallel = 1\n'
    (tmp_path / "profiles" / "demo.toml").write_text(slot)
    assert llmctl("apply", "--yes", code=1)["errors"][0]["hint"] == "llmctl pull traveller"
    (step,) = llmctl("apply", "--yes", "--pull")["steps"]
    assert (step["result"]["model"], step["result"]["state"]) == ("traveller", "ready")
