"""How long a swap takes against a bare start of the same engine, and how long it keeps clients waiting."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llmctl.models.fit import PROCESS
from llmctl.slots import verbs
from scripts.benchmarks import testbed
from scripts.benchmarks.report import Row, row
from tests.clients import Traffic

RUNS = 7
SPARE_GOALS = {"torch": "≤ 0.6", "llamacpp": "≤ 1.0"}
GAP_SECONDS = 6.0


def measure() -> Iterator[Row]:
    paths = testbed.tiny("--random-05b")
    for engine, path in (("llamacpp", paths["random-0.5b-gguf"]), ("torch", paths["random-0.5b"])):
        yield _time(engine, path, goal="≤ 1.15")
        yield _time(engine, path, goal=SPARE_GOALS[engine], spare=True)
    tiny = testbed.tiny("--gguf")
    yield _gap("scripted", None)
    yield _gap("llamacpp", tiny["tiny-qwen2-gguf"])


def _time(engine: str, path: Path, goal: str, spare: bool = False) -> Row:
    """From the command to the new model's first token, against load, probes and first token in a bare process."""
    ratios = []
    with testbed.home() as home:
        port = testbed.free_port()
        kept = PROCESS[engine] if spare else 0
        specs = [replace(testbed.real(engine, name, path, parallel=1), spare_bytes=kept) for name in ("alpha", "beta")]
        verbs.change(home, port, "load", specs[0], launch=testbed.launch())
        for i in range(RUNS):
            while spare and verbs.status(home, [port])[0].spare != "ready":
                time.sleep(0.5)
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "scripts.benchmarks.swap_once", str(home), str(port)],
                input=json.dumps(specs[(i + 1) % 2].to_dict()), text=True, check=True, cwd=testbed.REPO,
            )  # fmt: skip
            ours = time.perf_counter() - began
            bare = testbed.seconds([sys.executable, "-m", "scripts.benchmarks.bare_start", engine, str(path)])
            ratios.append(ours / bare)
    return row(
        f"swap to a 0.5B model on {engine}{' with a warm spare' if spare else ''}, command to first token ÷ bare start "
        "of the engine", ratios, goal,
        f"both: {'' if spare else 'a new process, '}load, the probe twice, then a request's first token; the swap also "
        "has the slot server, the old engine beside it, and its end; the bare start is that of a new process",
    )  # fmt: skip


def _gap(engine: str, path: Path | None) -> Row:
    """The longest time without a served response around a new-first swap, less that of as long a time without one."""
    extra = []
    with testbed.home() as home:
        port = testbed.free_port()
        if path is None:
            specs = [testbed.scripted(home, name, parallel=8, step=0.001) for name in ("alpha", "beta")]
        else:
            specs = [testbed.real(engine, name, path) for name in ("alpha", "beta")]
        verbs.change(home, port, "load", specs[0], launch=testbed.launch())
        for i in range(RUNS):
            with Traffic(port, clients=8, pause=0.01) as calm:
                time.sleep(GAP_SECONDS)
            with Traffic(port, clients=8, pause=0.01) as traffic:
                time.sleep(1.0)
                verbs.change(home, port, "swap", specs[(i + 1) % 2], order="new-first")
                time.sleep(1.0)
            assert not traffic.failures and not calm.failures, traffic.failures[:3]
            extra.append((traffic.longest_gap - calm.longest_gap) * 1000)
    return row(
        f"longest gap between served responses in a new-first swap on {engine}, ms over no swap", extra, "≤ 100",
        f"8 clients on kept and new connections; the baseline is {GAP_SECONDS:.0f} s of the same traffic just before",
    )  # fmt: skip
