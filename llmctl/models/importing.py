"""A model that lies on this host already becomes an artifact by links: no byte is copied, each is hashed once.

What is imported was made by others: its names, links and kinds of files are checked before anything of it is opened.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmctl import paths
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.errors import BadCheckpoint, Refused, StateError, UnknownName, UsageError
from llmctl.files import blocks
from llmctl.jobs.context import Context
from llmctl.models import manifest as manifests
from llmctl.models import selection, store
from llmctl.models.checkpoint import Checkpoint, inspect, trusted
from llmctl.models.checkpoint_gguf import SHARD, shards
from llmctl.models.hf_cache import Snapshot, snapshot_of
from llmctl.models.hub import Listing, RepoFile
from llmctl.models.manifest import FileEntry, Manifest
from llmctl.models.registry import naming

HINT = "name a model's folder, or a .gguf file"
NAMELESS = ("model", "ggml-model")
SHORT = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
ODD = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISSOCK, "a socket"))


@dataclass(frozen=True)
class Imported:
    """The artifact at `path`, and the folder or file that it links to (`origin`). `already`: nothing was changed."""

    model: str
    format: str
    quantization: str | None
    path: str
    bytes: int
    files: int
    origin: str
    source: str | None
    revision: str | None
    already: bool


@dataclass(frozen=True)
class Found:
    """What lies at a path: the checkpoint, the files that make it up by name, and the cache's snapshot it is of."""

    path: Path
    checkpoint: Checkpoint
    files: Mapping[str, Path]
    snapshot: Snapshot | None


def import_model(path: Path, models_dir: Path, catalog: Catalog, job: Context, *, name: str | None = None) -> Imported:
    """Make the folder or GGUF file at `path` an artifact of the model `name` (None: as its repository or file says).

    BadCheckpoint, Refused and Unsupported say what is wrong with it. The same import again changes nothing.
    """
    path = look(path, models_dir)
    snapshot = snapshot_of(path)
    id = identify(path, snapshot, catalog, name)
    model = catalog.models.get(id) or Model(id)
    found = survey(path, snapshot, model)
    artifact = described(found, model)
    target = store.folder(id, artifact, models_dir)
    with store.changing(id, models_dir, wait=False):
        kept = _kept(target, found)
        if kept:
            return _imported(kept, target, already=True)
        with store.staging(models_dir) as staged:
            files = _linked(staged, found.files, job)
            origin = {"by": "import", "at": manifests.now(), "from": str(path)}
            licence = model.traits(artifact).licence
            kept = Manifest(
                id, artifact.format, artifact.quantization, files, artifact.source, artifact.revision, licence, origin
            )
            manifests.write(staged, kept)
            store.publish(staged, target)
    return _imported(kept, target, already=False)


# ── what it is ──────────────────────────────────────────────────────────────────────────────────────────────────────


def look(path: Path, models_dir: Path) -> Path:
    """The absolute path, when it is a folder or a regular file that may be looked into."""
    path = Path(os.path.abspath(path.expanduser()))
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadCheckpoint(f"{path}: {why}", hint=HINT) from None
    if not stat.S_ISDIR(mode):
        _regular(path, mode)
    if path.resolve().is_relative_to(models_dir.resolve()):
        raise Refused(f"{path} lies in llmctl's own store", hint="llmctl models list shows it")
    snapshot = snapshot_of(path)
    return snapshot.path if snapshot and path == snapshot.folder else path


def identify(path: Path, snapshot: Snapshot | None, catalog: Catalog, name: str | None) -> str:
    """The model's id: as the operator, the repository or the path says it; the catalog's own where it knows it."""
    called = name or (snapshot.repo if snapshot else _stem(path))
    bare = called if name else naming.model_id(called)
    for spelling in dict.fromkeys((called, bare)):
        try:
            return catalog.resolve(spelling).id
        except UnknownName as error:
            if error.details.get("candidates"):
                raise UsageError(f"{path}: {error.message}", hint="add --as with the whole id") from None
    try:
        return paths.check_name(bare, "model")
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint="add --as with an id for it") from None


def _stem(path: Path) -> str:
    """What a folder or file is called; a file that is just called "model" has its folder's name."""
    if path.suffix != ".gguf":
        return path.name
    stem = SHARD.sub("", path.name).removesuffix(".gguf")
    return stem if stem not in NAMELESS else path.parent.name


def survey(path: Path, snapshot: Snapshot | None, model: Model) -> Found:
    """The model at `path`: first its files' kinds and links are checked, then its headers are read."""
    folder = store.folder_of(path)
    names = sorted(os.listdir(folder)) if path.is_dir() else [shard.name for shard in shards(path)]
    root = (snapshot.folder if snapshot else folder).resolve()
    sizes = {name: _size(folder / name, root) for name in names if not (folder / name).is_dir()}
    try:
        checkpoint = trusted(inspect(path), model.id, model.allow_code)
    except BadCheckpoint as error:
        raise BadCheckpoint(error.message, hint=error.hint or HINT) from error
    listing = Listing(
        str(path), "", tuple(RepoFile(name, size, "") for name, size in sizes.items()), mlx=checkpoint.format == "mlx"
    )
    file = checkpoint.path.name if checkpoint.format == "gguf" else None
    chosen = selection.select(listing, checkpoint.format, file=file, code=model.allow_code)
    return Found(path, checkpoint, {file.path: folder / file.path for file in chosen.files}, snapshot)


def described(found: Found, model: Model) -> Artifact:
    """The artifact that it is: the catalog's, where this repository is its source, else what the files say."""
    checkpoint, snapshot = found.checkpoint, found.snapshot
    if snapshot is None:
        return Artifact(checkpoint.format, _quantization(checkpoint))
    source = f"{snapshot.repo}:{checkpoint.path.name}" if checkpoint.format == "gguf" else snapshot.repo
    known = [a for a in model.artifacts if a.format == checkpoint.format and a.source == source]
    quantization = known[0].quantization if known else _quantization(checkpoint)
    return Artifact(checkpoint.format, quantization, source, revision=snapshot.commit)


def _quantization(checkpoint: Checkpoint) -> str | None:
    """As it is a part of the artifact's folder: q4_k_m, 4bit, bf16."""
    by_name = selection.quantization_of(checkpoint.path.name) if checkpoint.format == "gguf" else None
    found = by_name or checkpoint.quantization or SHORT.get(checkpoint.dtype)
    return paths.check_name(found.lower(), "quantization") if found else None


# ── its files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _size(path: Path, root: Path) -> int:
    """The bytes of a regular file whose links, if any, stay within `root`."""
    if not path.name.isprintable():
        raise Refused(f"{path.parent} has a file named {path.name[:140]!r}", hint="give it a printable name")
    try:
        real = path.resolve(strict=True)
        found = os.stat(real)
    except (OSError, RuntimeError):
        raise BadCheckpoint(
            f"{path}: this link leads nowhere", hint="bring the file back, or remove the link"
        ) from None
    _regular(path, found.st_mode)
    if not real.is_relative_to(root):
        raise Refused(
            f"{path} leads out of the folder, to {real}", hint=f"import {real.parent}, or put the file itself there"
        )
    return found.st_size


def _regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in ODD if test(mode)), "no regular file")
        raise BadCheckpoint(f"{path} is {kind}, not a file of a model", hint=HINT)


def _linked(staged: Path, files: Mapping[str, Path], job: Context) -> tuple[FileEntry, ...]:
    """Links in `staged` to the real files, and what they hold."""
    total, done = sum(path.stat().st_size for path in files.values()), 0
    entries = []
    for name, path in files.items():
        real = path.resolve()
        before, digest, start = real.stat(), hashlib.sha256(), done
        try:
            with open(real, "rb", buffering=0) as file:
                for block in blocks(file):
                    digest.update(block)
                    done += len(block)
                    job.progress("hashing", done, total)
                    if done - start > before.st_size:
                        break
        except OSError as error:
            raise BadCheckpoint(f"{path}: cannot be read: {error.strerror}", hint=f"ls -l {real}") from error
        after = real.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise Refused(f"{path} changed while it was read", hint="import it when it is complete")
        (staged / name).symlink_to(real)
        entries.append(FileEntry(name, after.st_size, digest.hexdigest(), after.st_mtime_ns))
    return tuple(entries)


def _kept(target: Path, found: Found) -> Manifest | None:
    """The manifest of the artifact at `target` when it links to these very files; Refused when it is another."""
    if not target.exists():
        return None
    try:
        kept = manifests.read(target)
    except StateError:
        kept = None
    here = {entry.path: (target / entry.path).resolve() for entry in kept.files} if kept else {}
    same = here == {name: path.resolve() for name, path in found.files.items()}
    if kept and same and all(entry.unchanged(target) for entry in kept.files):
        return kept
    format, _, quantization = target.name.partition("-")
    chosen = f"--format {format}" + (f" --quantization {quantization}" if quantization else "")
    raise Refused(
        f"{target} is there already, and it is not this one",
        hint=f"llmctl models rm {target.parent.name} {chosen}, or import it --as another id",
    )


def _imported(kept: Manifest, target: Path, *, already: bool) -> Imported:
    return Imported(
        kept.model, kept.format, kept.quantization, str(target), kept.bytes, len(kept.files),
        str(kept.origin.get("from", "")), kept.source, kept.revision, already,
    )  # fmt: skip
