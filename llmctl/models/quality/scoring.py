"""Runs a model over the token set in a process of its own, by the engine that serves its format."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from llmctl import backends
from llmctl.backends import cpu
from llmctl.domain import EngineSpec
from llmctl.errors import DoesNotFit, LlmctlError, LoadFailed, from_dict
from llmctl.jobs.context import Context
from llmctl.models import fit
from llmctl.models.checkpoint import Checkpoint
from llmctl.processes import group, own_environment

ENGINES = {"safetensors": "torch", "mlx": "mlx", "gguf": "llamacpp"}
LOG_LINES = 20


@dataclass(frozen=True)
class Scores:
    """What the process left: `windows` are the token set's ids, `logits` its scored rows in a file."""

    logits: Path
    rows: int
    vocab: int
    windows: list[list[int]]
    tokenizer_vocab: int
    pieces: Mapping[str, str]
    identity: Mapping[str, Any]
    seconds: float

    @staticmethod
    def read(folder: Path) -> Scores:
        """What `llmctl.engines.score` wrote into `folder`."""
        return Scores(logits=folder / "logits.f32", **json.loads((folder / "score.json").read_text()))

    def rows_of_logits(self) -> Any:
        """float32 [rows, vocab], mapped from the file."""
        import numpy as np

        return np.memmap(self.logits, dtype="<f4", mode="r", shape=(self.rows, self.vocab))


def engine_of(checkpoint: Checkpoint) -> str:
    """The engine that scores a format: that which serves it; MLX reads safetensors where there is no torch."""
    engine = ENGINES[checkpoint.format]
    return "mlx" if engine == "torch" and find_spec("torch") is None else engine


def score(
    checkpoint: Checkpoint, task: Mapping[str, Any], folder: Path, job: Context, *, name: str, allow_code: bool
) -> Scores:
    """Score one model; `task` is what `llmctl.engines.score` takes beside the spec. The process ends with this call.

    DoesNotFit before it starts; the engine's own error, or LoadFailed with its last lines, when it fails.
    """
    folder.mkdir()
    engine = engine_of(checkpoint)
    spec = EngineSpec(
        engine, name, str(checkpoint.path), checkpoint.format, context=task["length"], parallel=1, allow_code=allow_code
    )
    backend = backends.get(backends.detect())
    _check_memory(checkpoint, engine, backend, name)
    (folder / "task.json").write_text(json.dumps({**task, "spec": asdict(spec)}))
    argv = [sys.executable, "-m", "llmctl.engines.score", str(folder / "task.json"), str(folder)]
    environment = backend.environment(own_environment())
    with open(folder / "log", "w+b") as log, group(argv, stderr=log, text=True, env=environment) as process:
        _follow(process, job, name, log)
    return Scores.read(folder)


def _follow(process: subprocess.Popen[str], job: Context, name: str, log: IO[bytes]) -> None:
    """Pass its progress on until it has ended; its failure is raised here."""
    assert process.stdout is not None
    for line in process.stdout:
        told = json.loads(line)
        if "error" in told:
            raise from_dict(told["error"])
        job.progress(f"{told['stage']} {name}", told["done"], told["total"])
    if status := process.wait():
        log.seek(0)
        last = log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        raise LoadFailed(f"{name}: the process that scores it {how}", details={"log": last})


def _check_memory(checkpoint: Checkpoint, engine: str, backend: backends.Backend, name: str) -> None:
    """A GGUF is mapped, and read again from the disk where memory is short; the others must fit."""
    if engine == "llamacpp":
        return
    try:
        free = backend.memory().free
    except LlmctlError:  # it cannot be measured here
        return
    widened = engine == "torch" and backend.NAME == "cpu" and not cpu.fast_bf16()
    needed = fit.estimate(checkpoint, 1, 1, engine, "float32" if widened else None).total
    if needed > free:
        raise DoesNotFit(
            f"measuring the quality of {name} takes {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free",
            hint="unload a slot of this host (llmctl unload PORT), or convert on a larger host",
            details={"needed": needed, "free": free},
        )
