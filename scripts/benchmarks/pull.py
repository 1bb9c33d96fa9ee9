"""`llmctl pull` from a hub on loopback against `hf download` and `sha256sum`; a second pull; verify."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llmctl.jobs.context import Silent
from llmctl.models import verify
from scripts.benchmarks.report import Row, row
from scripts.benchmarks.testbed import REPO
from tests.testbed.repos import random_checkpoint

BYTES = int(os.environ.get("LLMCTL_BENCH_PULL_BYTES", 500 * 10**6))
SHARDS = 4
RUNS = 5
STARTS = 11


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="llm-") as made, _hub(Path(made) / "hub") as url:
        top = Path(made)
        pulls = [_pull(url, top) / _peer(url, top) for _ in range(RUNS)]
        yield row(
            f"`llmctl pull` ÷ (`hf download`, then `sha256sum` of its files), {BYTES / 1e6:.0f} MB, throughput",
            [1 / ratio for ratio in pulls], "≥ 0.9",
            f"wall time of the processes, alternating, a fresh cache each, {SHARDS} safetensors files of random bytes "
            "from a hub on loopback in a process of its own; without Xet",
        )  # fmt: skip
        env = _environment(url, top / "kept")
        _timed([*LLMCTL, "pull", "org/model"], env)
        again = [_timed([*LLMCTL, "pull", "org/model"], env) - _timed([*LLMCTL, "version"], env) for _ in range(STARTS)]
        yield row(
            "`llmctl pull` of what is here − `llmctl version`, seconds", again, "≤ 0.5",
            "wall time; one question to the hub, nothing is hashed",
        )  # fmt: skip
        artifact = top / "kept" / "home" / "models" / "model" / "safetensors"
        yield row(
            f"`llmctl models verify` ÷ `sha256sum` of the same files, {BYTES / 1e6:.0f} MB, throughput",
            [_sums(artifact) / _verify(artifact) for _ in range(RUNS)], "≥ 0.8",
            "wall time, alternating, files in the page cache; `sha256sum` started once for each file, all at once, on "
            "the same cores; ours without the start of Python",
        )  # fmt: skip


LLMCTL = (sys.executable, "-m", "llmctl")


@contextlib.contextmanager
def _hub(root: Path) -> Iterator[str]:
    """The hub with one repository, in a process of its own; its address."""
    random_checkpoint(root / "org" / "model", BYTES, SHARDS)
    argv = [sys.executable, "-m", "tests.testbed.hub", str(root), "0"]
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=REPO)
    try:
        assert running.stdout
        yield running.stdout.readline().strip()
    finally:
        running.kill()
        running.wait()


def _environment(url: str, folder: Path) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "LLMCTL_"))}
    own = {"HF_HOME": str(folder / "hf"), "LLMCTL_HOME": str(folder / "home"), "HF_ENDPOINT": url}
    return {**env, **own, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def _timed(argv: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=REPO)
    return time.perf_counter() - began


def _pull(url: str, top: Path) -> float:
    with _fresh(top) as folder:
        return _timed([*LLMCTL, "pull", "org/model"], _environment(url, folder))


def _peer(url: str, top: Path) -> float:
    """Seconds of the library's own command and of hashing what it brought."""
    with _fresh(top) as folder:
        hf = Path(sys.executable).with_name("hf")
        seconds = _timed([str(hf), "download", "org/model"], _environment(url, folder))
        files = sorted(str(path) for path in (folder / "hf" / "hub").glob("models--*/snapshots/*/*"))
        return seconds + _timed(["sha256sum", *files], dict(os.environ))


def _verify(artifact: Path) -> float:
    began = time.perf_counter()
    assert verify.verify(artifact, Silent()).passed
    return time.perf_counter() - began


def _sums(artifact: Path) -> float:
    """Seconds of a sha256sum for each file of the manifest, all at once."""
    files = [entry["path"] for entry in json.loads((artifact / "manifest.json").read_text())["data"]["files"]]
    began = time.perf_counter()
    running = [subprocess.Popen(["sha256sum", artifact / name], stdout=subprocess.DEVNULL) for name in files]
    for one in running:
        one.wait()
    return time.perf_counter() - began


@contextlib.contextmanager
def _fresh(top: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=top))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
