"""The models llmctl knows: id, aliases, licence, probe, artifacts; from `catalog.toml` and an optional `models.toml`.

An entry of the models.toml beside hosts.toml replaces the shipped entry of the same id, or adds one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmctl import paths, tables
from llmctl.domain import FORMATS, Probe
from llmctl.errors import LlmctlError, UnknownName, nearest
from llmctl.tables import Table


@dataclass(frozen=True)
class Artifact:
    """One model in one format and quantization.

    `source` is `org/repo[:file]` on the hub (None: made on this host), `revision` a commit, tag or branch of it (None:
    its main branch). `path` is where it lies already, absolute. `bytes` are its weights'.
    """

    format: str
    quantization: str | None = None
    source: str | None = None
    path: Path | None = None
    bytes: int | None = None
    revision: str | None = None

    @property
    def folder(self) -> str:
        """The name of its folder under `<models>/<id>/`."""
        return f"{self.format}-{self.quantization}" if self.quantization else self.format


@dataclass(frozen=True)
class Model:
    """A catalog entry. `context` is the longest the model was made for, in tokens."""

    id: str
    aliases: tuple[str, ...] = ()
    context: int | None = None
    licence: str | None = None
    parameters: int | None = None
    probe: Probe = Probe()
    allow_code: bool = False
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class QualityLimit:
    """What a quantization of `bits` per weight may lose, and what was seen (the lowest and highest of real ones).

    `max_kl` is the mean KL divergence in nats per token, `min_top1` the share of equal most likely tokens.
    """

    bits: int
    max_kl: float
    min_top1: float
    seen_kl: tuple[float, float] | None = None
    seen_top1: tuple[float, float] | None = None


class Catalog:
    """All entries, found by any spelling: case, dots, dashes, underscores and an `org/` in front do not matter."""

    def __init__(self, models: Iterable[Model], quality: Iterable[QualityLimit] = ()) -> None:
        self.models: Mapping[str, Model] = {model.id: model for model in models}
        self.quality: Mapping[int, QualityLimit] = {limit.bits: limit for limit in quality}
        self._ids: dict[str, set[str]] = {}
        self._spellings: dict[str, set[str]] = {}
        for model in self.models.values():
            self._ids.setdefault(_normal(model.id), set()).add(model.id)
            repos = {a.source.split(":")[0] for a in model.artifacts if a.source}
            for spelling in (*model.aliases, *repos):
                self._spellings.setdefault(_normal(spelling), set()).add(model.id)

    def resolve(self, name: str) -> Model:
        """The model that `name` means; UnknownName lists the candidates or the nearest spelling."""
        if name in self.models:
            return self.models[name]
        key = _normal(name)
        ids = self._ids.get(key) or self._spellings.get(key) or set()
        if len(ids) == 1:
            return self.models[next(iter(ids))]
        if ids:
            raise UnknownName(f"{name!r} may be {', '.join(sorted(ids))}", hint="type the whole id")
        close = nearest(key, [*self._ids, *self._spellings])
        owners = self._ids.get(close) or self._spellings[close] if close else set()
        hint = f"did you mean {' or '.join(sorted(owners))}?" if owners else "llmctl models list"
        raise UnknownName(f"no model {name[:140]!r}", hint=hint)


def load(config_dir: Path | None = None) -> Catalog:
    """The shipped catalog, and the models.toml of `config_dir` over it."""
    models = _read(Path(__file__).with_name("catalog.toml"))
    if config_dir and (own := config_dir / "models.toml").exists():
        models |= _read(own)
    return Catalog(models.values())


def _read(path: Path) -> dict[str, Model]:
    root = tables.read(path)
    root.only("models")
    entries = root.table("models")
    return {name: _model(name, entries) for name in entries.data}


def _model(name: str, entries: Table) -> Model:
    table = entries.table(name)
    table.only("aliases", "context", "licence", "parameters", "probe", "allow_code", "artifacts")
    try:
        paths.check_name(name, "model")
    except LlmctlError as error:
        raise tables.blame(entries, name, error) from None
    return Model(
        id=name,
        aliases=table.texts("aliases"),
        context=table.integer("context"),
        licence=table.text("licence"),
        parameters=table.integer("parameters"),
        probe=_probe(table.table("probe")),
        allow_code=table.flag("allow_code"),
        artifacts=tuple(_artifact(entry) for entry in table.tables("artifacts")),
    )


def _probe(table: Table) -> Probe:
    table.only("prompt", "expect", "max_tokens")
    usual = Probe()
    return Probe(
        table.text("prompt", usual.prompt), table.text("expect"), table.integer("max_tokens", usual.max_tokens)
    )


def _artifact(table: Table) -> Artifact:
    table.only("format", "quantization", "source", "revision", "path", "bytes")
    if "format" not in table.data:
        raise table.mistake(None, "an artifact needs a format", f"one of {', '.join(FORMATS)}")
    quantization, path = table.text("quantization", "").lower(), table.text("path")
    if quantization:
        try:
            paths.check_name(quantization, "quantization")
        except LlmctlError as error:
            raise tables.blame(table, "quantization", error) from None
    return Artifact(
        format=table.one_of("format", FORMATS, ""),
        quantization=quantization or None,
        source=table.text("source"),
        path=(table.path.parent / Path(path).expanduser()).absolute() if path else None,
        bytes=table.size("bytes"),
        revision=table.text("revision"),
    )


def _normal(name: str) -> str:
    return re.sub(r"[\s._-]+", "-", name.rsplit("/", 1)[-1].strip().lower())
