"""What an engine is given beside its model (config.Tuning): from words to paths of this host, and back to words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.config import Host, Tuning, named_adapters
from llmctl.domain import NGRAM, EngineSpec
from llmctl.errors import Refused, Unsupported, UsageError
from llmctl.models import store
from llmctl.models.checkpoint import Checkpoint, inspect
from llmctl.models.choice import READS, format_for
from llmctl.slots.artifacts import absent, present, readable
from llmctl.spread import of

ADAPTERS = "adapters"
_CONVERTS_TO = {"safetensors": "torch"}


def resolved(catalog: Catalog, host: Host, asked: Tuning, engine: str) -> dict[str, Any]:
    """The fields of an EngineSpec that `asked` means on this host.

    Refused for a draft or an adapter that is not here, Unsupported for a draft that `engine` does not read.
    """
    if asked.draft is not None and not asked.draft.strip():
        raise UsageError("a draft needs a name", hint=f"{NGRAM}, or a model")
    draft = asked.draft
    if draft and draft != NGRAM:
        draft = str(_draft(catalog.resolve(draft), host, engine))
    return {
        "draft": draft,
        "adapters": {name: str(_adapter(name, path, host)) for name, path in named_adapters(asked.adapters).items()},
        "cache_bits": asked.cache_bits,
        "cache_bytes": asked.cache_bytes,
    }


def _draft(model: Model, host: Host, engine: str) -> Path:
    here = present(model, host)
    if not here:
        raise absent(model, host)
    format = format_for(engine, {artifact.format for artifact, _ in here})
    if format is None:
        there = ", ".join(sorted({artifact.format for artifact, _ in here}))
        wanted = READS[engine]
        to_get = next((a for a in model.artifacts if a.format in wanted and a.source), None)
        made = f"llmctl convert {model.id} --to {_CONVERTS_TO.get(wanted[0], wanted[0])}"
        raise Unsupported(
            f"the draft {model.id} is on {host.name} as {there}, and {engine} reads {' or '.join(wanted)}",
            hint=f"llmctl pull {model.id} --format {to_get.format}" if to_get else made,
            host=host.name,
        )
    path = next(path for artifact, path in here if artifact.format == format)
    readable(model, path)
    return path


def _adapter(name: str, given: str | None, host: Host) -> Path:
    base = host.models(paths.home()) / ADAPTERS
    places = [Path(given).expanduser()] if given else [base / name, base / f"{name}.gguf"]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise Refused(
            f"the adapter {name} is not on {host.name}: there is no {places[0]}",
            hint=f"put its folder there, or name another place: --adapter {name}=/PATH",
            host=host.name,
        )
    return found


def draft_of(spec: EngineSpec) -> Checkpoint | None:
    """The draft model that `spec` names; None where it has none."""
    return inspect(Path(spec.draft)) if spec.draft and spec.draft != NGRAM else None


def adapter_bytes(adapters: Mapping[str, str]) -> int:
    """What the adapters' files take."""
    files = [f for path in map(Path, adapters.values()) for f in (path.rglob("*") if path.is_dir() else [path])]
    return sum(f.stat().st_size for f in files if f.suffix in (".safetensors", ".gguf", ".npz"))


def said(spec: EngineSpec, catalog: Catalog, models_dir: Path) -> dict[str, Any]:
    """The fields of a Tuning that mean what `spec` has on this host."""
    base = models_dir / ADAPTERS
    named = {name: Path(path) for name, path in spec.adapters.items()}
    usual = {name: path in (base / name, base / f"{name}.gguf") for name, path in named.items()}
    return {
        "draft": _name_of(spec.draft, catalog, models_dir) if spec.draft else None,
        "adapters": tuple(name if usual[name] else f"{name}={path}" for name, path in named.items()),
        "cache_bits": spec.cache_bits,
        "cache_bytes": spec.cache_bytes,
        "spread": tuple(map(str, of(spec.spread))),
    }


def _name_of(draft: str, catalog: Catalog, models_dir: Path) -> str:
    """The model at that path; the path itself where it is none any more."""
    if draft == NGRAM:
        return NGRAM

    def here(model: Model) -> list[tuple[Artifact, Path]]:
        return store.present(model, models_dir)

    owners = (model.id for model in catalog.models.values() if any(str(path) == draft for _, path in here(model)))
    return next(owners, draft)
