"""The support matrix: which models, engines and formats there are on this host, and a row for each that says the truth.

What a row needs is decided here, without effects; `matrix_cell` proves one.
"""

from __future__ import annotations

import contextlib
import fnmatch
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.checks import machine, matrix_cell
from llmctl.checks.slot_checks import FAIL, PASS, SKIP
from llmctl.config import Host
from llmctl.errors import LlmctlError
from llmctl.models import store
from llmctl.models.checkpoint import Checkpoint, inspect
from llmctl.models.choice import READS, RUNS_ON
from llmctl.slots.admission import gb
from llmctl.slots.resolve import backend_of
from llmctl.testing import Testing

NOTHING_RAN, PARTIAL, FAILED = 5, 3, 1
UNTESTED = ("scripted", "upstream")
"""Engines whose models are not here: a script is no model, and a server loads what it loads."""
ONE_NAME = {"gemma3_text": "gemma3", "phi2": "phi", "qwen2moe": "qwen2-moe", "qwen3moe": "qwen3-moe"}
"""What llama.cpp and transformers call differently."""

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Chosen:
    """What of the matrix is asked for; None: all. `models` are ids or globs."""

    backend: str | None = None
    engine: str | None = None
    architecture: str | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One model in one format on one engine. `checkpoint` None: its files cannot be read, as `problem` says."""

    model: Model
    artifact: Artifact
    path: Path
    engine: str
    architecture: str
    checkpoint: Checkpoint | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Row:
    """What was found of one cell; `checks` says it of each check in words."""

    host: str
    backend: str
    engine: str
    arch: str
    model: str
    format: str
    quantization: str | None
    status: str
    why: str
    seconds: float
    checks: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """All rows of one host, and what each engine that ran is made of."""

    rows: list[Row] = field(default_factory=list)
    subjects: list[dict[str, Any]] = field(default_factory=list)


def run(
    home: Path, host: Host, catalog: Catalog, testing: Testing, chosen: Chosen, on_event: OnEvent,
    clock: Callable[[], float] = time.monotonic,
) -> Result:  # fmt: skip
    """Prove every cell of this host, one after another."""
    backend, found = backend_of(host), Result()
    if testing.models_dir:
        host = replace(host, models_dir=Path(testing.models_dir).expanduser())
    if not wanted_backend(backend, testing, chosen):
        return found
    began = clock()
    for cell in cells(catalog, host, backend, testing, chosen):
        why = obstacle(cell, testing, clock() - began)
        if cell.problem:
            outcome = matrix_cell.Outcome(FAIL, cell.problem)
        elif why:
            outcome = matrix_cell.Outcome(SKIP, why)
        else:
            on_event({"event": "note", "message": f"{cell.model.id} ({told(cell.artifact)}) on {cell.engine}"})
            outcome = matrix_cell.prove(home, host, catalog, cell, testing)
        row = _row(host.name, backend, cell, outcome)
        found.rows.append(row)
        on_event({"event": "note", "message": f"{row.status}: {row.model} ({told(cell.artifact)}) on {row.engine}"
                  f"{f': {row.why}' if row.why else ''}"})  # fmt: skip
        if outcome.versions and not any(s["engine"] == cell.engine for s in found.subjects):
            found.subjects.append(
                {"host": host.name, "engine": cell.engine, "backend": backend, "chip": machine.chip(backend),
                 "versions": outcome.versions}
            )  # fmt: skip
    return found


def wanted_backend(backend: str, testing: Testing, chosen: Chosen) -> bool:
    """Whether this host is meant, and may be tested."""
    return (chosen.backend in (None, backend)) and (testing.backends is None or backend in testing.backends)


def cells(catalog: Catalog, host: Host, backend: str, testing: Testing, chosen: Chosen) -> Iterator[Cell]:
    """Every model here in every format, on every engine that reads the format and runs on the backend."""
    for model in catalog.models.values():
        if chosen.models and not any(fnmatch.fnmatch(model.id, pattern) for pattern in chosen.models):
            continue
        here = store.present(model, host.models(paths.home()))
        family = _family(path for artifact, path in here if artifact.format in ("safetensors", "mlx"))
        for artifact, path in here:
            engines = [
                engine
                for engine, formats in READS.items()
                if artifact.format in formats and backend in RUNS_ON[engine] and engine not in UNTESTED
                and engine in (testing.engines or READS) and chosen.engine in (None, engine)
            ]  # fmt: skip
            if not engines:
                continue
            try:
                checkpoint, problem = inspect(path), None
            except LlmctlError as error:
                checkpoint, problem = None, error.message
            architecture = family or (one_name(checkpoint.architecture) if checkpoint else "unknown")
            if chosen.architecture is None or one_name(chosen.architecture) == architecture:
                for engine in engines:
                    yield Cell(model, artifact, path, engine, architecture, checkpoint, problem)


def obstacle(cell: Cell, testing: Testing, seconds: float) -> str | None:
    """Why this machine's testing.toml leaves the cell out."""
    found = cell.checkpoint
    if found and testing.largest and found.weights_bytes > testing.largest:
        return f"{gb(found.weights_bytes)} of weights, and testing.toml allows {gb(testing.largest)} here"
    if found and testing.parameters and found.parameters > testing.parameters:
        return f"{found.parameters:,} parameters, and testing.toml allows {testing.parameters:,} here"
    if testing.time is not None and seconds > testing.time:
        return f"the {testing.time:g} s that testing.toml gives were over"
    return None


def one_name(architecture: str) -> str:
    """An architecture as the matrix calls it, whoever named it."""
    return ONE_NAME.get(architecture, architecture).lower().replace("_", "-")


def told(artifact: Artifact) -> str:
    """A format, with its quantization."""
    return f"{artifact.format} {artifact.quantization}" if artifact.quantization else artifact.format


def exit_code(rows: Iterable[Mapping[str, Any]]) -> int:
    """Of rows as JSON: 1 with any fail, 5 when nothing ran, else 0."""
    found = {row["status"] for row in rows}
    return FAILED if FAIL in found else 0 if PASS in found else NOTHING_RAN


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _family(folders: Iterable[Path]) -> str | None:
    """The architecture as the model's own configuration says it: a GGUF of a mixtral says llama."""
    for folder in folders:
        with contextlib.suppress(LlmctlError):
            return one_name(inspect(folder).architecture)
    return None


def _row(host: str, backend: str, cell: Cell, outcome: matrix_cell.Outcome) -> Row:
    return Row(
        host, backend, cell.engine, cell.architecture, cell.model.id, cell.artifact.format, cell.artifact.quantization,
        outcome.status, outcome.why, round(outcome.seconds, 1), outcome.checks,
    )  # fmt: skip
