"""Whether a model fits: for each local host and each artifact, the engine, the bytes by part, and the room there is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmctl import backends
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.config import Host, Tuning
from llmctl.domain import EngineSpec
from llmctl.errors import LlmctlError, Refused, Unsupported, UsageError
from llmctl.models import architectures, store
from llmctl.models.checkpoint import Checkpoint, inspect
from llmctl.models.choice import choose_engine
from llmctl.models.fit import PROCESS, Fit, Room, largest_context
from llmctl.models.quality.report import bits_of
from llmctl.slots import artifacts, resolve, tuning
from llmctl.slots.admission import Ledger

FITS, LESS_CONTEXT, TOO_LARGE, NOT_RUN = "fits", "less context", "too large", "not run"
HEADER, CATALOG = "header", "catalog"


@dataclass(frozen=True)
class ArtifactFit:
    """One artifact on one host, all sizes in bytes.

    `basis` is HEADER (exact) or CATALOG (the artifact is not here: weights by the catalog's figures, the rest by
    another artifact of the model that is here, `kv` None where there is none). `verdict` is FITS, LESS_CONTEXT (up to
    `largest_context`), TOO_LARGE (by `short`) or NOT_RUN (`problem` says why). `longest` is the model's own context.
    """

    host: str
    format: str
    quantization: str | None
    path: str | None
    basis: str
    verdict: str
    fits: bool
    context: int
    parallel: int
    free: int
    budget: int
    reserved: int
    engine: str | None = None
    why: str | None = None
    why_not: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    weights: int | None = None
    kv: int | None = None
    compute: int | None = None
    process: int | None = None
    total: int | None = None
    short: int = 0
    longest: int | None = None
    largest_context: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Question(Tuning):
    """What is asked of every artifact; None is what `load` would take. `catalog` has the draft."""

    model: Model
    catalog: Catalog
    context: int | None = None
    parallel: int = resolve.DEFAULT_PARALLEL
    quantization: str | None = None
    engine: str = "auto"


def fits(question: Question, hosts: Iterable[Host], home: Path) -> list[ArtifactFit]:
    """One row per host and artifact, those that are here first; UsageError where the context is longer than any has."""
    rows = [row for host in hosts for row in _on(host, question, home)]
    if not rows:
        raise Refused(
            f"the catalog has no artifact of {question.model.id} as {question.quantization or 'anything'}",
            hint=f"llmctl models show {question.model.id}",
        )
    ends = [row.longest for row in rows if row.longest]
    if question.context and ends and question.context > max(ends):
        raise UsageError(
            f"{question.model.id} has a context of {max(ends)} tokens, not {question.context}",
            hint=f"--context {max(ends)}",
        )
    return rows


def _on(host: Host, question: Question, home: Path) -> Iterable[ArtifactFit]:
    backend = resolve.backend_of(host)
    memory = backends.get(backend).memory()
    room = Room(memory.free, host.memory_budget or memory.total, Ledger(home).reserved())
    present = store.present(question.model, host.models(home))
    here = {artifact for artifact, _ in present}
    twin = _any_checkpoint(path for artifact, path in present if artifact.format != "script")
    absent: list[tuple[Artifact, Path | None]] = [(a, None) for a in question.model.artifacts if a not in here]
    for artifact, path in [*present, *absent]:
        if not question.quantization or (artifact.quantization or "").casefold() == question.quantization.casefold():
            yield _row(host, backend, room, question, artifact, path, twin)


def _row(
    host: Host, backend: str, room: Room, question: Question, artifact: Artifact, path: Path | None,
    twin: Checkpoint | None,
) -> ArtifactFit:  # fmt: skip
    row = ArtifactFit(
        host.name, artifact.format, artifact.quantization, str(path) if path else None, HEADER if path else CATALOG,
        NOT_RUN, False, question.context or 0, question.parallel, room.free, room.budget, room.reserved,
    )  # fmt: skip
    try:
        choice = choose_engine(backend, {artifact.format}, question.engine)
    except Unsupported as error:
        return replace(row, problem=f"no engine runs it on {backend}", why_not=error.details["why_not"])
    row = replace(row, engine=choice.engine, why=choice.why, why_not=choice.why_not)
    if artifact.format == "script":
        return _judged(row, room, Fit(0, 0, 0, resolve.script_bytes(path) if path else resolve.SCRIPT_BYTES))
    if artifact.server:
        longest = question.model.traits(artifact).context
        row = replace(row, context=question.context or longest or 0, longest=longest)
        return _judged(row, room, Fit(0, 0, 0, artifact.server.memory or 0))
    try:
        found = _checkpoint(question.model, artifact, path, twin)
        beside = tuning.resolved(question.catalog, host, question, choice.engine)
        plain = EngineSpec(choice.engine, question.model.id, "", artifact.format, 0, question.parallel, **beside)
        draft = tuning.draft_of(plain)
    except LlmctlError as error:
        return replace(row, problem=error.message)
    if found is None:
        return _by_weights_alone(row, room, question.model, artifact)
    if path and architectures.takes(choice.engine, found.architecture) is False:
        return replace(row, problem=f"{choice.engine} does not know the architecture {found.architecture!r}")
    longest = resolve.longest_context(question.model, artifact, found)
    context = question.context or min(longest, resolve.DEFAULT_CONTEXT)
    row = replace(row, context=context, longest=longest)
    if context > longest:
        return replace(row, problem=f"its context ends at {longest} tokens")

    def needed(tokens: int) -> Fit:
        return resolve.needs(found, replace(plain, context=tokens), backend, draft)

    largest = largest_context(lambda tokens: needed(tokens).total, room.available, longest)
    return _judged(replace(row, largest_context=largest), room, needed(context))


def _judged(row: ArtifactFit, room: Room, fit: Fit) -> ArtifactFit:
    """`row` with the bytes and what they mean."""
    short = max(0, fit.total - room.available)
    verdict = FITS if not short else LESS_CONTEXT if row.largest_context else TOO_LARGE
    return replace(row, **asdict(fit), total=fit.total, verdict=verdict, fits=not short, short=short)


def _by_weights_alone(row: ArtifactFit, room: Room, model: Model, artifact: Artifact) -> ArtifactFit:
    """The verdict where no file of the model is here to say how large its keys and values are."""
    weights = _catalog_bytes(model, artifact)
    if weights is None:
        return replace(row, problem="the catalog does not know its size")
    judged = _judged(row, room, Fit(weights, 0, 0, PROCESS[row.engine or "torch"]))
    return replace(judged, kv=None, compute=None)


def _checkpoint(model: Model, artifact: Artifact, path: Path | None, twin: Checkpoint | None) -> Checkpoint | None:
    """What is known of the artifact: its own files, else `twin` with the catalog's weights, else nothing."""
    if path:
        return artifacts.readable(model, path)
    weights = _catalog_bytes(model, artifact)
    if twin is None or weights is None:
        return None
    plain = artifact.format == "safetensors"
    return replace(twin, weights_bytes=weights, quantization=None if plain else artifact.quantization or "unknown")


def _catalog_bytes(model: Model, artifact: Artifact) -> int | None:
    if artifact.bytes:
        return artifact.bytes
    if model.parameters and artifact.quantization:
        with contextlib.suppress(LlmctlError):  # a name that does not say its bits
            bits = 32 if artifact.quantization == "f32" else bits_of(artifact.quantization)
            return model.parameters * bits // 8
    return None


def _any_checkpoint(paths: Iterable[Path]) -> Checkpoint | None:
    """The first that can be read."""
    for path in paths:
        with contextlib.suppress(LlmctlError):
            return inspect(path)
    return None
