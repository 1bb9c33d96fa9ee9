"""The models that lie on this host, under one folder: `<models>/<id>/<format>[-<quantization>]/`.

An artifact appears there whole, by a rename, or not at all. What is not finished lies in `<models>/.staging`, what
failed its quality gate in `<models>/.quarantine/<id>/`. Weights of the hub are links into huggingface-hub's cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmctl import paths
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.domain import FORMATS
from llmctl.errors import LlmctlError, Refused
from llmctl.files import locked, sync, take_lock
from llmctl.models import manifest as manifests

STAGING, QUARANTINE = ".staging", ".quarantine"


def locate(model: Model, artifact: Artifact, models_dir: Path) -> Path | None:
    """Where `artifact` lies on this host: a folder, or the (first) .gguf file; None when it is not here."""
    return content(artifact.path or folder(model.id, artifact, models_dir), artifact.format)


def folder(model: str, artifact: Artifact, models_dir: Path) -> Path:
    """The folder that this artifact has, or would have."""
    return models_dir / model / artifact.folder


def present(model: Model, models_dir: Path) -> list[tuple[Artifact, Path]]:
    """The artifacts that lie on this host: the catalog's in its order, then those made or brought here."""
    named = list(model.artifacts)
    folders = {folder(model.id, artifact, models_dir) for artifact in named if not artifact.path}
    named += [artifact for artifact, path in _made(model.id, models_dir) if path not in folders]
    found = [(artifact, locate(model, artifact, models_dir)) for artifact in named]
    return [(artifact, path) for artifact, path in found if path]


def missing(model: Model, host: str) -> Refused:
    """The error for a model that is in the catalog but not on `host`."""
    if any(artifact.source for artifact in model.artifacts):
        return Refused(f"{model.id} is not on {host}", hint=f"llmctl pull {model.id}", host=host)
    return Refused(f"{model.id} is not on {host}", hint="scripts/quickstart makes the tiny models", host=host)


def with_local(catalog: Catalog, models_dir: Path) -> Catalog:
    """`catalog` and the models that lie here without an entry in it."""
    names = {path.name for path in models_dir.glob("*/") if not path.name.startswith(".")}
    own = [_local(name, models_dir) for name in sorted(names - set(catalog.models))]
    return Catalog([*catalog.models.values(), *(model for model in own if model)], catalog.quality.values())


def content(path: Path, format: str) -> Path | None:
    """What an engine loads of an artifact at `path`: the first .gguf file, or the folder itself; None: not there."""
    if format == "gguf" and path.is_dir():
        return next(iter(sorted(path.glob("*.gguf"))), None)
    return path if path.exists() else None


def folder_of(path: Path) -> Path:
    """The folder of the model at `path`, which is a folder or a file."""
    return path if path.is_dir() else path.parent


# ── changing it ─────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def staging(models_dir: Path) -> Iterator[Path]:
    """An empty folder on the store's own file system, removed at the end unless it was published."""
    base = models_dir / STAGING
    base.mkdir(parents=True, exist_ok=True)
    with locked(base / "sweep.lock"):
        _sweep(base)
        made = Path(tempfile.mkdtemp(dir=base))
        mine = take_lock(made.with_suffix(".lock"), wait=False, what="a new staging folder")
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        made.with_suffix(".lock").unlink(missing_ok=True)
        os.close(mine)


def publish(staged: Path, target: Path) -> None:
    """Move a finished staged folder to `target`, in place of what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in sorted(staged.rglob("*")):
        if path.is_file() and not path.is_symlink():
            sync(path)
    old, place = staged.with_suffix(".old"), staged.with_suffix(".target")
    if target.exists():
        place.write_text(str(target))  # killed between the two renames, the next sweep puts the old one back
        os.rename(target, old)
    os.rename(staged, target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
    place.unlink(missing_ok=True)


@contextlib.contextmanager
def changing(model: str, models_dir: Path, *, wait: bool = True) -> Iterator[None]:
    """The only one that changes this model's artifacts on this host."""
    (models_dir / STAGING).mkdir(parents=True, exist_ok=True)
    with locked(models_dir / STAGING / f"{model}.model-lock", wait=wait, what=f"the artifacts of {model}"):
        yield


def _sweep(base: Path) -> None:
    """Remove the folders whose maker is gone, but put back an artifact that was on its way out. Under sweep.lock."""
    for path in sorted((p for p in base.iterdir() if p.is_dir()), key=lambda p: p.suffix != ".old"):
        with contextlib.suppress(LlmctlError), locked(path.with_suffix(".lock"), wait=False):
            place = path.with_suffix(".target")
            if path.suffix == ".old" and place.is_file() and not (target := Path(place.read_text())).exists():
                os.rename(path, target)
            shutil.rmtree(path, ignore_errors=True)
            for left in (place, path.with_suffix(".lock")):
                left.unlink(missing_ok=True)


def _made(model: str, models_dir: Path) -> list[tuple[Artifact, Path]]:
    """The artifacts with a manifest in the model's folder."""
    found = []
    for path in sorted((models_dir / model).glob("*/")):
        with contextlib.suppress(LlmctlError):
            if kept := manifests.read(path):
                found.append((_artifact(kept), path))
    return [(artifact, path) for artifact, path in found if artifact.format in FORMATS]


def _artifact(kept: manifests.Manifest) -> Artifact:
    return Artifact(kept.format, kept.quantization, kept.source, bytes=kept.bytes, revision=kept.revision)


def _local(name: str, models_dir: Path) -> Model | None:
    with contextlib.suppress(LlmctlError):
        paths.check_name(name, "model")
        if artifacts := [artifact for artifact, _ in _made(name, models_dir)]:
            return Model(name, artifacts=tuple(artifacts))
    return None
