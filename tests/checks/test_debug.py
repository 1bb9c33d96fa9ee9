"""debug-inference: a generation on a scratch port, the log of a worker that dies, and nothing left however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.checks import scratch
from llmctl.domain import SlotSpec
from llmctl.errors import DoesNotFit
from llmctl.paths import slot_ports
from llmctl.slots.admission import Ledger
from tests.conftest import RunningSlot, eventually

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def config(tmp_path: Path, home: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host `here` with two real models and scripted ones; temporary folders go into one of the test's own."""
    scripts = {"dies": {"fail": "exit"}, "slow": {"load": 60}, "mute": {"odd": [], "die_after": 20, "length": 8}}
    entries = {
        "small": ("gguf", tiny_models["tiny-llama-gguf-q8_0"]),
        "big": ("safetensors", tiny_models["tiny-llama"]),
    }
    for name, play in scripts.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(play))
        entries[name] = ("script", path)
    (tmp_path / "hosts.toml").write_text("[hosts.here]\nports = [8100, 8139]\nlabels = []\n")
    (tmp_path / "models.toml").write_text(
        "".join(
            f'[models.{name}]\n[[models.{name}.artifacts]]\nformat = "{format}"\npath = "{path}"\n'
            for name, (format, path) in entries.items()
        )
    )
    scratch = Path(tempfile.mkdtemp(prefix="llm-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))
    return scratch


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["debug-inference", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def ours(scratch: Path) -> Iterator[int]:
    """The processes that were told of the scratch folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(scratch).encode() in path.read_bytes():
                yield int(path.parent.name)


def nothing_left(scratch: Path, home: Path) -> bool:
    return not list(scratch.glob("llmctl-scratch-*")) and not list(ours(scratch)) and Ledger(home).reserved() == 0


def test_the_smallest_model_says_the_same_again(run: Run, config: Path, home: Path) -> None:
    code, first = run()
    assert code == 0 and first["data"]["model"] == "small" and first["data"]["engine"] == "llamacpp"
    assert 0 < first["data"]["tokens"] <= 20 and first["data"]["text"] and first["data"]["prompt"] == "Once upon a time"
    assert not 8100 <= first["data"]["port"] <= 8139
    assert nothing_left(config, home) and slot_ports(home) == []
    assert run("here", "--backend", "cpu", "--model", "small")[1]["data"]["text"] == first["data"]["text"]


def test_a_worker_that_dies_shows_its_last_lines(run: Run, config: Path, home: Path) -> None:
    code, envelope = run("--model", "dies")
    assert code == 1 and envelope["errors"][0]["code"] == "load_failed"
    log = envelope["data"]["log"]
    assert len(log) <= 30 and any("dying while loading, as told" in line for line in log)
    assert nothing_left(config, home)


def test_one_that_dies_while_it_answers_too(run: Run, config: Path, home: Path) -> None:
    code, envelope = run("--model", "mute")
    assert code == 1 and "came up and did not answer" in envelope["errors"][0]["message"]
    assert envelope["data"]["log"] and nothing_left(config, home)


def test_one_that_is_not_ready_in_time_too(run: Run, config: Path, home: Path) -> None:
    code, envelope = run("--model", "slow", "--ready-within", "1s")
    assert code == 1 and "was not ready within 1 s" in envelope["errors"][0]["message"]
    assert nothing_left(config, home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_when_it_is_killed(config: Path, home: Path, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "llmctl", "debug-inference", "--model", "slow"], stderr=subprocess.DEVNULL
    )
    eventually(lambda: len(list(ours(config))) >= 2 and list(config.glob("llmctl-scratch-*/slots/*/control.sock")))
    os.kill(process.pid, number)
    assert process.wait(30) == (130 if number == signal.SIGINT else -number)
    eventually(lambda: nothing_left(config, home))


def test_it_does_not_take_memory_that_slots_have_reserved(
    run: Run, slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec], tmp_path: Path
) -> None:
    (tmp_path / "hosts.toml").write_text('[hosts.here]\nmemory_budget = "1GB"\n')
    slots(script(needed=990_000_000))
    code, envelope = run("--model", "small")
    assert code == 1 and envelope["errors"][0]["code"] == DoesNotFit.code


def test_the_scratch_port_is_nobodys(home: Path) -> None:
    for _ in range(30):
        assert not 1 <= scratch.free_port(home, (1, 50000)) <= 50000


def test_without_a_model_it_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("")
    code, envelope = run()
    assert code == 1 and "no model that here can run" in envelope["errors"][0]["message"]
    assert envelope["errors"][0]["hint"] == "llmctl pull MODEL"


def test_bad_words(run: Run) -> None:
    assert run("nowhere")[0] == 2
    assert run("--model", "smal")[0] == 2
    assert run("--backend", "abacus")[0] == 2
    assert run("--ready-within", "soon")[0] == 2
