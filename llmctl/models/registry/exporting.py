"""Writes what runs here as a registry.json of version 2: the catalog's models that lie here, the ports as lanes."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl import domain
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.models import store
from llmctl.models.registry import naming
from llmctl.models.registry.shape import FORMATS, VERSION

SERVING = (domain.READY, domain.SWAPPING, domain.SLEEPING)
STARTING = (domain.STARTING, domain.SWAPPING, domain.BACKOFF)
FAILED = (domain.CRASH_LOOP, domain.DOWN)


@dataclass(frozen=True)
class Ref:
    """A model on a port: which of its artifacts, by the path that is loaded or by its quantization."""

    model: str
    path: str | None = None
    quantization: str | None = None
    context: int | None = None


@dataclass(frozen=True)
class Port:
    """A slot as it is. `state` is one of the states of `status`, `since` epoch seconds (0: never)."""

    port: int
    desired: Ref | None = None
    actual: Ref | None = None
    good: Ref | None = None
    state: str = domain.EMPTY
    since: float = 0.0


@dataclass(frozen=True)
class Exported:
    """The registry as it goes into the file, and what has no place in it, with the reason."""

    registry: dict[str, Any]
    left_out: tuple[str, ...]


def export(catalog: Catalog, models_dir: Path, ports: Iterable[Port]) -> Exported:
    """Everything that registry.json can hold, in its order of keys."""
    return _Exporter(catalog, models_dir).all(sorted(ports, key=lambda port: port.port))


class _Exporter:
    def __init__(self, catalog: Catalog, models_dir: Path) -> None:
        self.left_out: list[str] = []
        self.slugs: dict[str, tuple[Model, Artifact, Path]] = {}
        for model in catalog.models.values():
            for artifact, path in store.present(model, models_dir):
                self.add(model, artifact, artifact.path or (path.parent if artifact.format == "gguf" else path))

    def add(self, model: Model, artifact: Artifact, path: Path) -> None:
        what = f"{model.id} as {artifact.folder}"
        slug = next(iter(artifact.names), None) or naming.slug(model.id, artifact.format, artifact.quantization)
        if artifact.format not in FORMATS:
            self.left_out.append(f"{what}: a registry holds {' and '.join(FORMATS)} only")
        elif slug in self.slugs:
            self.left_out.append(f"{what}: {self.slugs[slug][0].id} has its name {slug}")
        else:
            self.slugs[slug] = (model, artifact, path)

    def all(self, ports: list[Port]) -> Exported:
        lanes = {str(port.port): self.lane(port) for port in ports}
        desired = {slug: port for port in reversed(ports) if (slug := self.slug(port.desired))}
        models = {slug: self.entry(slug, desired.get(slug)) for slug in sorted(self.slugs)}
        return Exported({"version": VERSION, "models": models, "lanes": lanes}, tuple(self.left_out))

    def entry(self, slug: str, port: Port | None) -> dict[str, Any]:
        model, artifact, path = self.slugs[slug]
        traits = model.traits(artifact)
        optional = {
            "chat_template": traits.chat_template,
            "chat_template_args": dict(traits.chat_template_args),
            "tool_call_parser": traits.tool_parser,
            "reasoning_parser": traits.reasoning_parser,
            "served_model_name": None if model.id == slug else model.id,
            "startup_timeout_seconds": traits.load_timeout,
        }
        served = port.desired.context if port and port.desired else None
        return {
            "repo_id": _repo(artifact),
            "model_id": slug,
            "cache_path": str(path),
            "format": artifact.format,
            "port": port.port if port else None,
            "context_length": served or traits.context,
            "max_output_tokens": traits.max_output,
            **{key: value for key, value in optional.items() if value not in (None, {})},
        }

    def lane(self, port: Port) -> dict[str, Any]:
        serving = port.state in SERVING and port.actual is not None
        converged = self.slug(port.desired) == (self.slug(port.actual) if serving else None)
        since = datetime.datetime.fromtimestamp(port.since, datetime.timezone.utc) if port.since else None
        return {
            "port": port.port,
            "desired_target": self.target(port, port.desired),
            "actual_serving_target": self.target(port, port.actual) if serving else None,
            "last_known_good_target": self.target(port, port.good),
            "actual_served_model_identity": port.actual.model if serving and port.actual else None,
            "health_state": "serving" if serving else "starting" if port.state in STARTING else "down",
            "reconciliation_state": (
                "converged" if converged else "failed" if port.state in FAILED else "transitioning"
            ),
            "last_failure": None,
            "last_transition_time": since.isoformat(timespec="seconds") if since else None,
        }

    def target(self, port: Port, ref: Ref | None) -> dict[str, Any] | None:
        slug = self.slug(ref)
        if ref is None:
            return None
        if slug is None:
            line = f"{ref.model} on port {port.port}: not among the models here"
            self.left_out += [] if line in self.left_out else [line]
            return None
        return {
            "target_slug": slug,
            "repo_id": _repo(self.slugs[slug][1]),
            "expected_served_model_identity": ref.model,
        }

    def slug(self, ref: Ref | None) -> str | None:
        """The slug of the artifact that a slot runs, or would take."""
        for slug, (model, artifact, path) in self.slugs.items():
            if ref and model.id == ref.model:
                if ref.path is not None and (Path(ref.path) == path or Path(ref.path).parent == path):
                    return slug
                if ref.path is None and ref.quantization in (None, artifact.quantization):
                    return slug
        return None


def _repo(artifact: Artifact) -> str | None:
    return artifact.source.split(":")[0] if artifact.source else None
