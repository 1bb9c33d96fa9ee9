"""What a pull is asked for: the catalog's artifact for this host, or a repository of the hub. Pure decisions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmctl import paths
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.domain import build
from llmctl.errors import LlmctlError, Refused, Unsupported, UsageError
from llmctl.models.choice import PREFERENCE, READS
from llmctl.models.hub import check_path, check_repo, check_revision
from llmctl.models.selection import quantization_of

AUTO = "auto"
FORMATS = ("safetensors", "mlx", "gguf")


@dataclass(frozen=True)
class Wanted:
    """One pull, complete: the process that does it reads no configuration.

    `source` is `org/repo[:file]`; `format` "auto" leaves it to what the repository has; `revision` None is its main
    branch. `cache` is the root of huggingface-hub's cache.
    """

    model: str
    source: str
    format: str
    backend: str
    models_dir: str
    cache: str
    endpoint: str
    quantization: str | None = None
    revision: str | None = None
    allow_code: bool = False

    @property
    def repo(self) -> str:
        return self.source.partition(":")[0]

    @property
    def file(self) -> str | None:
        return self.source.partition(":")[2] or None

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Wanted:
        return build(Wanted, data)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Wish:
    """What stands on the command line."""

    name: str
    format: str = AUTO
    quantization: str | None = None
    revision: str | None = None


def resolve(wish: Wish, catalog: Catalog, pinned: Collection[str], **place: str) -> Wanted:
    """The pull that `wish` means. `pinned` are the ids that have an entry; `place` is the rest of Wanted.

    A repository that an entry names means that entry; one without an entry gets an id of its own name.
    """
    if wish.format not in (AUTO, *FORMATS):
        raise UsageError(f"no format {wish.format[:40]!r}", hint=f"one of {', '.join((AUTO, *FORMATS))}")
    if wish.quantization:
        wish = replace(wish, quantization=paths.check_name(wish.quantization.lower(), "quantization"))
    if wish.revision:
        check_revision(wish.revision)
    model = _named(wish.name, catalog)
    artifact = _of_entry(wish, model, place["backend"]) if model and model.id in pinned else _of_repo(wish, model)
    return Wanted(
        model=model.id if model else _id(wish.name, catalog), source=str(artifact.source), format=artifact.format,
        quantization=artifact.quantization, revision=wish.revision or artifact.revision,
        allow_code=bool(model and model.allow_code), **place,
    )  # fmt: skip


def _named(name: str, catalog: Catalog) -> Model | None:
    """The model that is meant; None for a repository that no model comes from."""
    if "/" not in name:
        return catalog.resolve(name)
    repo, colon, file = name.partition(":")
    check_repo(repo)
    if colon:
        _check_file(file)
    return next((model for model in catalog.models.values() if _from(model, repo)), None)


def _from(model: Model, repo: str) -> list[Artifact]:
    """The artifacts of `model` that come from `repo`."""
    return [a for a in model.artifacts if a.source and a.source.partition(":")[0].lower() == repo.lower()]


def _of_entry(wish: Wish, model: Model, backend: str) -> Artifact:
    """The artifact of an entry that is meant, by default the one that this backend's engines like best."""
    there = [artifact for artifact in model.artifacts if artifact.source and artifact.format in FORMATS]
    if "/" in wish.name:
        repo, _, file = wish.name.partition(":")
        there = _from(model, repo)
        if file:
            exact = next((a for a in there if a.source == wish.name), None)
            return exact or Artifact("gguf", quantization_of(file), wish.name, revision=there[0].revision)
    if not there:
        raise Refused(f"the entry of {model.id} names no source on the hub", hint=f"llmctl models show {model.id}")
    fitting = [artifact for artifact in there if wish.quantization in (None, artifact.quantization)]
    liked = list(dict.fromkeys(format for engine in PREFERENCE[backend] for format in READS[engine]))
    for format in liked if wish.format == AUTO else (wish.format,):
        for artifact in fitting:
            if artifact.format == format:
                return artifact
    # A repository of GGUF files has other quantizations than the one that its entry names.
    gguf = next((artifact for artifact in there if artifact.format == "gguf"), None)
    if gguf and wish.quantization and wish.format in (AUTO, "gguf"):
        return Artifact("gguf", wish.quantization, str(gguf.source).partition(":")[0], revision=gguf.revision)
    known = ", ".join(" ".join(filter(None, (a.format, a.quantization))) for a in there)
    if wish.format == AUTO and not wish.quantization:
        raise Unsupported(
            f"no engine on {backend} reads what there is of {model.id}: {known}",
            hint=f"llmctl models show {model.id}",
        )
    asked = " ".join(filter(None, (wish.format if wish.format != AUTO else None, wish.quantization)))
    raise UsageError(
        f"{model.id} has no {asked} in the catalog; there is {known}", hint="name one of these, or org/repo"
    )


def _of_repo(wish: Wish, model: Model | None) -> Artifact:
    """An artifact of a repository without an entry: what is typed, or what lies here already when its id is typed."""
    if "/" in wish.name:
        file = wish.name.partition(":")[2]
        if file:
            return Artifact("gguf", quantization_of(file), wish.name)
        return Artifact(wish.format, wish.quantization, wish.name)
    known = next((a for a in model.artifacts if a.source), None) if model else None
    if known is None:
        raise Refused(f"{wish.name} did not come from the hub", hint=f"llmctl models show {wish.name}")
    if wish.format == AUTO and not wish.quantization:
        return replace(known, revision=None)
    return Artifact(wish.format, wish.quantization, str(known.source).partition(":")[0])


def _id(name: str, catalog: Catalog) -> str:
    """The id of a repository without an entry."""
    repo = name.partition(":")[0]
    id = paths.check_name(re.sub(r"[\s_]+", "-", repo.partition("/")[2].lower()), "model")
    try:
        taken = catalog.resolve(id)
    except LlmctlError:
        return id
    sources = ", ".join(dict.fromkeys(str(a.source) for a in taken.artifacts if a.source)) or "no source"
    raise Refused(
        f"{repo} would be named {taken.id}, and that is another model here (from {sources})",
        hint="give it an entry with an id of its own in models.toml",
    )


def _check_file(file: str) -> None:
    try:
        check_path(file)
    except LlmctlError:
        file = ""
    if not file.endswith(".gguf"):
        raise UsageError("what follows the colon is not the name of a .gguf file", hint="type org/name:file.gguf")
