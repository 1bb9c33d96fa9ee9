"""The memory that a load and full contexts add to an engine's process against what `models fit` said before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from llmctl.models.checkpoint import inspect
from llmctl.models.fit import Fit
from llmctl.slots import resolve
from scripts.benchmarks import testbed
from scripts.benchmarks.report import Row, row

RUNS = 3
# (engine, model, [(context, parallel)]); mlx computes some seven tokens a second on a CPU.
CASES = (
    ("llamacpp", "random-0.5b-gguf", ((256, 1), (2048, 4))),
    ("torch", "random-0.5b", ((256, 1), (2048, 4))),
    ("mlx", "random-0.5b", ((64, 1), (256, 2))),
)


def measure() -> Iterator[Row]:
    paths = testbed.tiny("--random-05b")
    for engine, model, settings in CASES:
        for context, parallel in settings:
            seen = [once(engine, paths[model], context, parallel) for _ in range(RUNS)]
            fit = resolve.needs(inspect(paths[model]), context, parallel, engine, "cpu")
            grown = [run["full"] - run["imported"] for run in seen]
            yield row(
                f"{engine}, {context} tokens × {parallel}: memory measured ÷ estimated",
                [size / (fit.total - fit.process) for size in grown],
                "0.85 – 1.15",
                f"Rss with every context full, less the same process before it read a weight ({said(fit, grown[0])}); "
                f"that process alone: measured {mb(seen[0]['imported'])}, estimated {mb(fit.process)}",
            )


def once(engine: str, path: Path, context: int, parallel: int) -> dict[str, int]:
    """What `fit_once` measured, in a process of its own."""
    argv = [sys.executable, "-m", "scripts.benchmarks.fit_once", engine, str(path), str(context), str(parallel)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=testbed.REPO)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def said(fit: Fit, grown: int) -> str:
    """The parts, and what is left of the measurement beside the weights."""
    beside = f"beside these measured {mb(grown - fit.weights)}, estimated {mb(fit.kv)} of keys and values"
    return f"weights {mb(fit.weights)}, {beside} and {mb(fit.compute)} of compute"


def mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
