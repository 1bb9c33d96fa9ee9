"""The models llmctl knows: id, aliases, licence, probe, artifacts; from `catalog.toml` and an optional `models.toml`.

An entry of the models.toml beside hosts.toml replaces the shipped entry of the same id, or adds one. `catalog_file`
reads the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from llmctl.domain import Probe
from llmctl.errors import UnknownName, nearest
from llmctl.servers import Server

TEMPLATE_ARGUMENTS = (
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize", "padding",
    "continue_final_message", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs", "self",
    "return_assistant_tokens_mask", "bos_token", "eos_token",
)  # fmt: skip
"""What a chat template is given by llmctl and the libraries themselves, and an entry may not set."""

TIERS = (("small", 50), ("fast", 90), ("balanced", 140), ("high", 170))
"""A tier, and the GB (10^9 bytes) of weights that it stays below; "high" includes its 170, what is more is "beyond"."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a model says of itself, and an artifact where its format differs.

    `context` and `max_output` are tokens; `chat_template` is the path of a Jinja file or a name that the tokenizer has
    (None: the checkpoint's own); `stop_ids` end an answer besides the checkpoint's own; `load_timeout` is seconds.
    """

    context: int | None = None
    max_output: int | None = None
    licence: str | None = None
    chat_template: str | None = None
    chat_template_args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    stop_ids: tuple[int, ...] = ()
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    load_timeout: float | None = None


@dataclass(frozen=True)
class Artifact(Traits):
    """One model in one format and quantization.

    `source` is `org/repo[:file]` on the hub (None: made on this host), `revision` a commit, tag or branch of it (None:
    its main branch). `path` is where it lies already, absolute. `bytes` are its weights': about, until it is pulled.
    `names` are names of this very artifact, engine and quantization in them, the one of registry.json first. `server`
    runs it, in format "server": then there may be no files at all.
    """

    format: str
    quantization: str | None = None
    source: str | None = None
    path: Path | None = None
    bytes: int | None = None
    revision: str | None = None
    names: tuple[str, ...] = ()
    server: Server | None = None

    @property
    def folder(self) -> str:
        """The name of its folder under `<models>/<id>/`."""
        return f"{self.format}-{self.quantization}" if self.quantization else self.format

    @property
    def tier(self) -> str | None:
        """Its size as a word (TIERS); None when its bytes are not known."""
        return None if self.bytes is None else tier(self.bytes)


@dataclass(frozen=True)
class Model(Traits):
    """A catalog entry. `context` is the longest the model was made for, in tokens.

    `env` pins packages of the environment it needs: {"transformers": "4.57.1"} or "4.57.*". `allow_code` lets its
    author's code run.
    """

    id: str
    aliases: tuple[str, ...] = ()
    parameters: int | None = None
    probe: Probe = Probe()
    allow_code: bool = False
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifacts: tuple[Artifact, ...] = ()

    @property
    def tier(self) -> str | None:
        """The tier of its first artifact whose bytes are known: an entry names first what it is meant to run as."""
        return next((artifact.tier for artifact in self.artifacts if artifact.bytes is not None), None)

    def traits(self, artifact: Artifact | None = None) -> Traits:
        """The model's traits, those of `artifact` over them."""
        over = {f.name: getattr(artifact, f.name) for f in fields(Traits)} if artifact else {}
        own = {f.name: getattr(self, f.name) for f in fields(Traits)}
        return Traits(**{name: over.get(name) or value for name, value in own.items()})


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
            self._ids.setdefault(normal(model.id), set()).add(model.id)
            repos = {a.source.split(":")[0] for a in model.artifacts if a.source}
            names = {name for a in model.artifacts for name in a.names}
            for spelling in (*model.aliases, *repos, *names):
                self._spellings.setdefault(normal(spelling), set()).add(model.id)

    def resolve(self, name: str) -> Model:
        """The model that `name` means; UnknownName lists the candidates or the nearest spelling."""
        if name in self.models:
            return self.models[name]
        key = normal(name)
        ids = self._ids.get(key) or self._spellings.get(key) or set()
        if len(ids) == 1:
            return self.models[next(iter(ids))]
        if ids:
            raise UnknownName(
                f"{name!r} may be {', '.join(sorted(ids))}", hint="type the whole id",
                details={"candidates": sorted(ids)},
            )  # fmt: skip
        close = nearest(key, [*self._ids, *self._spellings])
        owners = self._ids.get(close) or self._spellings[close] if close else set()
        hint = f"did you mean {' or '.join(sorted(owners))}?" if owners else "llmctl models list"
        raise UnknownName(f"no model {name[:140]!r}", hint=hint)


def load(config_dir: Path | None = None) -> Catalog:
    """The shipped catalog, and the models.toml of `config_dir` over it; ConfigError names file and line."""
    from llmctl import catalog_file  # it needs the nouns

    return catalog_file.load(config_dir / "models.toml" if config_dir else None)


def tier(weights: int) -> str:
    """The word for that many bytes of weights."""
    gigabytes = weights / 1e9
    return next((name for name, top in TIERS if gigabytes < top or (name == "high" and gigabytes <= top)), "beyond")


def normal(name: str) -> str:
    """What all spellings of a name have in common."""
    return re.sub(r"[\s._-]+", "-", name.rsplit("/", 1)[-1].strip().lower())
