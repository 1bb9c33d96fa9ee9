"""Which files of a repository make an artifact: pure decisions over its listing, nothing is fetched.

Weights are taken once: no copies of them in other formats or places, and pickles only where the entry allows code and
there is nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from llmctl.errors import HubError, Unsupported, UsageError
from llmctl.models.checkpoint_gguf import SHARD
from llmctl.models.hub import Listing, RepoFile
from llmctl.models.safetensors_header import INDEX

# What is taken of a GGUF repository when nothing is named, best first (compat.md, "Model reference").
GGUF_PREFERENCE = ("q4_k_m", "q5_k_m", "q4_0", "q5_0", "q8_0", "f16")
PROJECTOR_PREFERENCE = ("f16", "bf16", "q8_0", "f32")
GGUF_TYPE = re.compile(
    r"(?<![a-z0-9])((?:iq|tq|q)\d(?:_[a-z0-9]+)*|f16|f32|bf16|mxfp4|nvfp4)(?![a-z0-9_])", re.IGNORECASE
)
SAFETENSORS = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors")
PICKLE = re.compile(r".*\.(bin|pt|pth|ckpt)")
PICKLE_WEIGHTS = re.compile(r"pytorch_model(?:-\d{5}-of-\d{5})?\.bin")
NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt")
BESIDE = (".json", ".jinja", ".txt", ".model", ".tiktoken")
NOT_BESIDE = re.compile(
    r".*\.index\.json|readme.*|license.*|notice.*|requirements.*|.*_results\.json|manifest\.json", re.I
)


@dataclass(frozen=True)
class Selection:
    """The files of one artifact. `weights` come in the order they are read, `beside` is what an engine needs too."""

    format: str
    quantization: str | None
    weights: tuple[RepoFile, ...]
    beside: tuple[RepoFile, ...] = ()
    pickled: bool = False

    @property
    def files(self) -> tuple[RepoFile, ...]:
        return (*self.beside, *self.weights)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def index(self) -> RepoFile | None:
        """The table of a sharded checkpoint."""
        return next((file for file in self.beside if file.path == INDEX), None)


def formats(listing: Listing) -> tuple[str, ...]:
    """The formats there are weights of."""
    found = ["gguf"] if _gguf_models(listing) else []
    if any(_root(file) and file.path.endswith(".safetensors") for file in listing.files):
        found.append("mlx" if listing.mlx else "safetensors")
    return tuple(found)


def select(
    listing: Listing, format: str, *, file: str | None = None, quantization: str | None = None, code: bool = False
) -> Selection:
    """The files to fetch for `format`. `file` names one GGUF file, `code` allows what would run its author's code.

    HubError `no_file` lists what is there, UsageError what may be meant, Unsupported refuses pickles.
    """
    if format == "gguf":
        return _gguf(listing, file, quantization)
    if file:
        raise UsageError(f"{listing.repo}:{file} names one file, and {format} is a folder", hint="leave :FILE away")
    return _folder(listing, format, quantization, code)


def narrowed(selection: Selection, shards: Iterable[str], repo: str) -> Selection:
    """`selection` with the weights that its index names, in its order; HubError when one of them is missing."""
    there = {file.path: file for file in selection.weights}
    names = sorted(set(shards))
    if missing := [name for name in names if name not in there]:
        raise HubError(
            f"{repo} lacks {', '.join(missing[:3])}, which its {INDEX} names", code="no_file",
            hint="pull the model from another repository or revision",
        )  # fmt: skip
    weights = tuple(there[name] for name in names)
    return Selection(selection.format, selection.quantization, weights, selection.beside, selection.pickled)


def quantization_of(name: str) -> str | None:
    """The quantization that a GGUF file's name tells, lower case: q4_k_m, bf16, …"""
    found = GGUF_TYPE.findall(SHARD.sub("", name).removesuffix(".gguf"))
    return str(found[-1]).lower() if found else None


# ── folders ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _folder(listing: Listing, format: str, quantization: str | None, code: bool) -> Selection:
    root = [file for file in listing.files if _root(file)]
    weights, pickled = _safetensors(root), False
    if not weights:
        pickles = [f for f in root if PICKLE.fullmatch(f.path) and f.path not in NO_WEIGHTS]
        if pickles and not code:
            raise Unsupported(
                f"{listing.repo} has its weights only as pickles ({pickles[0].path}), which run code when read",
                hint=_other_format(listing) or "allow_code = true in its entry of models.toml, if you trust its author",
            )
        weights, pickled = [f for f in pickles if PICKLE_WEIGHTS.fullmatch(f.path)] or pickles, bool(pickles)
    if not weights:
        raise HubError(
            f"{listing.repo} has no safetensors{_candidates(file.path for file in listing.files)}", code="no_file",
            hint=_other_format(listing) or "name another repository",
        )  # fmt: skip
    beside = [f for f in root if _beside(f, code) or (f.path == INDEX and not pickled)]
    beside += [f for f in root if pickled and f.path == "pytorch_model.bin.index.json"]
    return Selection(format, quantization, tuple(weights), tuple(beside), pickled)


def _safetensors(root: Sequence[RepoFile]) -> list[RepoFile]:
    """The weights in the root folder: `model*.safetensors` where there are any, shards before a whole copy."""
    found = [file for file in root if file.path.endswith(".safetensors")]
    usual = [file for file in found if SAFETENSORS.fullmatch(file.path)]
    shards = [file for file in usual if "-of-" in file.path]
    indexed = any(file.path == INDEX for file in root)
    return (shards if indexed else []) or [f for f in usual if f not in shards] or shards or found


def _beside(file: RepoFile, code: bool) -> bool:
    if file.path.endswith(".py"):
        return code
    return file.path.endswith(BESIDE) and not NOT_BESIDE.fullmatch(file.path)


# ── GGUF ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gguf(listing: Listing, file: str | None, quantization: str | None) -> Selection:
    models = _gguf_models(listing)
    names = [shards[0].path for shards in models]
    if file:
        found = [shards for shards in models if any(file in (shard.path, shard.name) for shard in shards)]
        what = file
    elif quantization:
        found, what = _of_type(models, quantization), f"GGUF of {quantization}"
    else:
        preferred = (_of_type(models, name) for name in GGUF_PREFERENCE)
        found = next((some for some in preferred if some), models if len(models) == 1 else [])
        what = f"GGUF of {', '.join(GGUF_PREFERENCE)}"
    if len(found) > 1:
        raise UsageError(
            f"{listing.repo} has several such files{_candidates(shards[0].path for shards in found)}",
            hint=f"llmctl pull {listing.repo}:{found[0][0].path}",
        )
    if not found:
        raise HubError(
            f"{listing.repo} has no {what}{_candidates(names)}", code="no_file",
            hint=f"llmctl pull {listing.repo}:{names[0]}" if names else "name another repository",
        )  # fmt: skip
    shards = found[0]
    counted = SHARD.search(shards[0].path)
    if counted and len(shards) != int(counted[2]):
        raise HubError(
            f"{listing.repo} has {len(shards)} of the {int(counted[2])} shards of {shards[0].path}", code="no_file",
            hint="pull the model from another repository or revision",
        )  # fmt: skip
    beside = _projector(listing, shards[0])
    return Selection("gguf", quantization or quantization_of(shards[0].name), tuple(shards), beside)


def _gguf_models(listing: Listing) -> list[list[RepoFile]]:
    """The GGUF files that are models, the shards of one together."""
    models: dict[str, list[RepoFile]] = {}
    for file in sorted(listing.files, key=lambda file: file.path):
        if file.path.endswith(".gguf") and not _is_projector(file):
            models.setdefault(SHARD.sub("", file.path), []).append(file)
    return list(models.values())


def _projector(listing: Listing, model: RepoFile) -> tuple[RepoFile, ...]:
    """What a GGUF model sees images with, where its repository has that: of several the likeliest type."""
    found = [file for file in listing.files if file.path.endswith(".gguf") and _is_projector(file)]
    near = [file for file in found if PurePosixPath(file.path).parent == PurePosixPath(model.path).parent]
    types = {name: place for place, name in enumerate(PROJECTOR_PREFERENCE)}
    order = sorted(near or found, key=lambda f: (types.get(quantization_of(f.name) or "", len(types)), f.path))
    return tuple(order[:1])


def _is_projector(file: RepoFile) -> bool:
    return "mmproj" in file.name.lower()


def _of_type(models: Sequence[list[RepoFile]], quantization: str) -> list[list[RepoFile]]:
    """The models of this quantization. Plainly named ones win over variants such as UD-Q4_K_M."""
    found = [shards for shards in models if quantization_of(shards[0].name) == quantization.lower()]
    plain = [shards for shards in found if not re.search(r"[-._](UD|imat)[-._]", shards[0].name)]
    return plain or found


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _other_format(listing: Listing) -> str | None:
    return f"llmctl pull {listing.repo} --format gguf" if _gguf_models(listing) else None


def _candidates(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"; there is {', '.join(names[:12])}{more}" if names else ""


def _root(file: RepoFile) -> bool:
    return PurePosixPath(file.path).parent == PurePosixPath(".")
