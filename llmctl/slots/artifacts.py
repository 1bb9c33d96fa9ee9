"""The artifacts of a model on this host: which one an engine reads, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

from llmctl import paths
from llmctl.catalog import Artifact, Model
from llmctl.config import Host
from llmctl.errors import BadCheckpoint, Refused
from llmctl.models import manifest, store
from llmctl.models.checkpoint import Checkpoint, inspect, trusted


def present(model: Model, host: Host) -> list[tuple[Artifact, Path]]:
    """What lies on this host of it, and the servers that its entry knows: those bring or have what they need."""
    served = [(artifact, artifact.path or Path()) for artifact in model.artifacts if artifact.server]
    return [*((a, p) for a, p in store.present(model, host.models(paths.home())) if not a.server), *served]


def absent(model: Model, host: Host, quantization: str | None = None) -> Refused:
    """The error for a model that is not on this host (in that quantization)."""
    have = sorted({a.quantization for a, _ in present(model, host) if a.quantization})
    if quantization and have:
        return Refused(
            f"{model.id} is not on {host.name} as {quantization}", hint=f"here it is as {', '.join(have)}",
            host=host.name,
        )  # fmt: skip
    return store.missing(model, host.name)


def readable(model: Model, path: Path) -> Checkpoint:
    """The checkpoint at `path`, whole as far as sizes tell, and without code that its entry does not allow."""
    folder = store.folder_of(path)
    kept = manifest.read(folder)
    damage = [why for entry in (kept.files if kept else ()) if (why := entry.damage(folder))]
    if damage:
        raise BadCheckpoint(f"{folder}: {', '.join(damage[:3])}", hint=f"llmctl models verify {model.id} --repair")
    return trusted(inspect(path), model.id, model.allow_code)
