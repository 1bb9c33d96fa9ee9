"""The real models that `test-models --real` runs: what is missing is pulled, within a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmctl.catalog import Artifact, Catalog, Model
from llmctl.config import Host
from llmctl.errors import HubError, UnknownName, Unreachable

if TYPE_CHECKING:
    from llmctl.checks.matrix import Chosen
    from llmctl.cli.session import Session
    from llmctl.testing import Testing

BUDGET = 8 * 10**9
"""Bytes that are downloaded where testing.toml does not say `real`."""
AWAY = ("unreachable", "hub_down", "rate_limited")


def brought(
    session: Session, host: Host, chosen: Chosen, said: Testing, on_event: Callable[[dict[str, Any]], None]
) -> Chosen:
    """What is asked for, narrowed to the real models; those that are missing are here afterwards, unless there is no
    hub, which is told."""
    from llmctl.cli.pull import fetch
    from llmctl.models import store
    from llmctl.slots.resolve import backend_of
    from llmctl.testing import REAL

    models = real(session.catalog, REAL)
    chosen = replace(chosen, models=chosen.models or tuple(models))
    here = {id: {artifact.format for artifact, _ in store.present(model, host.models(session.home))}
            for id, model in models.items()}  # fmt: skip
    missing = needed(models, here, backend_of(host), chosen, said)
    if missing:
        size = sum(artifact.bytes or 0 for _, artifact in missing)
        names = ", ".join(f"{model.id} ({artifact.format})" for model, artifact in missing)
        session.confirm(f"This downloads {size / 1e9:.1f} GB: {names}.")
    for model, artifact in missing:
        try:
            fetch(session, model.id, artifact.format, artifact.quantization)
        except (HubError, Unreachable) as error:
            on_event({"event": "note", "message": f"no real models can be brought here: {error.message}"})
            if error.code in AWAY:
                break
    session.forget_models()
    return chosen


def needed(
    models: Mapping[str, Model], here: Mapping[str, set[str]], backend: str, chosen: Chosen, said: Testing
) -> list[tuple[Model, Artifact]]:
    """What to pull, the smallest first: one artifact of each format that an engine of this backend reads."""
    import fnmatch

    from llmctl.checks.matrix import UNTESTED
    from llmctl.models.choice import READS, RUNS_ON

    engines = [e for e in READS if backend in RUNS_ON[e] and e not in UNTESTED and chosen.engine in (None, e)]
    reads = {format for engine in engines if engine in (said.engines or READS) for format in READS[engine]}
    wanted: dict[tuple[str, str], tuple[Model, Artifact]] = {}
    for model in models.values():
        if any(fnmatch.fnmatch(model.id, pattern) for pattern in chosen.models):
            for artifact in model.artifacts:
                if artifact.source and artifact.format in reads - here[model.id]:
                    wanted.setdefault((model.id, artifact.format), (model, artifact))
    left, found = said.real_bytes or BUDGET, []
    for model, artifact in sorted(wanted.values(), key=lambda one: one[1].bytes or 0):
        size = artifact.bytes or 0
        if size <= min(left, said.largest or left):
            left -= size
            found.append((model, artifact))
    return found


def real(catalog: Catalog, names: tuple[str, ...]) -> dict[str, Model]:
    """The models of these names that the catalog has."""
    found: dict[str, Model] = {}
    for name in names:
        try:
            model = catalog.resolve(name)
        except UnknownName:
            continue
        found[model.id] = model
    return found
