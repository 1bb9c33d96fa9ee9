"""The job: from an artifact that lies here to another that is whole, proved and published, or to nothing at all."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llmctl.catalog import QualityLimit
from llmctl.domain import build
from llmctl.errors import ConversionFailed, DoesNotFit, Refused, Unsupported
from llmctl.files import locked
from llmctl.jobs.context import Context
from llmctl.models import manifest as manifests
from llmctl.models import store
from llmctl.models.checkpoint import Checkpoint, inspect, trusted
from llmctl.models.convert import gate, plan, record
from llmctl.models.convert.plan import Source, Target
from llmctl.models.convert.request import Request
from llmctl.models.convert.steps import Steps

FULL = 2**20  # a disk with less room than this is full
VIEWED = (".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken")


def run(arguments: Mapping[str, Any], job: Context) -> Mapping[str, Any]:
    """Make the artifact; what was made, from what, how long it took and what the gate found."""
    request = build(Request, arguments)
    source = Source(record.artifact(request.source), inspect(Path(request.source["path"])))
    check(request, source)
    lock = request.store / store.STAGING / f"{request.model}.convert-lock"
    with locked(lock, what=f"the conversion of {request.model}"):
        if not request.force and (kept := intact(request.folder)):
            job.note(f"{request.folder} is there and unchanged: nothing to do")
            return record.result(request, source, kept, made=False)
        check_disk(request, source)
        return _convert(request, source, job)


def check(request: Request, source: Source) -> None:
    """Everything that can be refused before anything is read: code, what is not possible, what must not be replaced."""
    trusted(source.checkpoint, request.model, request.allow_code)
    if changed := unlike_manifest(source):
        raise Refused(
            f"{changed[0]} is not as it came here ({len(changed)} files changed or gone)",
            hint=f"llmctl models verify {request.model} --repair",
        )
    if why := plan.why_not(source, request.wanted):
        raise Unsupported(f"{source.path} {why}", hint="llmctl convert --help")
    target = request.folder
    kept = manifests.read(target) if target.is_dir() else None
    if target.exists() and (kept is None or kept.origin.get("by") != "convert"):
        raise Refused(
            f"{target} was not made by a conversion, and is not replaced by one",
            hint=f"llmctl models rm {request.model} --format {request.wanted.artifact.format} "
            f"--quantization {request.wanted.artifact.quantization}",
        )


def unlike_manifest(source: Source) -> list[Path]:
    """The source's files that changed since they came here; none where there is no manifest."""
    folder = store.folder_of(source.path)
    kept = manifests.read(folder)
    return [folder / entry.path for entry in kept.files if not entry.unchanged(folder)] if kept else []


def intact(folder: Path) -> manifests.Manifest | None:
    """The manifest of an artifact whose files are all as it says; they are not read."""
    kept = manifests.read(folder) if folder.is_dir() else None
    return kept if kept and all(entry.unchanged(folder) for entry in kept.files) else None


def check_disk(request: Request, source: Source) -> None:
    """DoesNotFit, with the numbers, when the disk has no room for the result and what lies beside it meanwhile."""
    request.store.mkdir(parents=True, exist_ok=True)
    needed, free = plan.needed_bytes(source, request.wanted), shutil.disk_usage(request.store).free
    if needed > free:
        raise _no_room(request, f"takes about {needed / 1e9:.2f} GB of disk in {request.store}", needed, free)


def _no_room(request: Request, what: str, needed: int, free: int) -> DoesNotFit:
    return DoesNotFit(
        f"converting {request.model} to {request.to} {request.quantization} {what}; {free / 1e9:.2f} GB are free",
        hint="llmctl models gc removes what nothing uses",
        details={"needed": needed, "free": free},
    )


@contextlib.contextmanager
def _disk_errors(request: Request, source: Source) -> Iterator[None]:
    """A disk that fills up within is an error with numbers; not every library says that this was it."""
    try:
        yield
    except (OSError, ConversionFailed) as error:
        free = shutil.disk_usage(request.store).free
        if free > FULL and getattr(error, "errno", None) != errno.ENOSPC:
            raise
        needed = plan.needed_bytes(source, request.wanted)
        what = f"filled the disk of {request.store}: it takes about {needed / 1e9:.2f} GB, and nothing of it was kept"
        raise _no_room(request, what, needed, free) from error


def _convert(request: Request, source: Source, job: Context) -> Mapping[str, Any]:
    began = time.monotonic()
    with (
        store.staging(request.store) as scratch,
        store.staging(request.store) as staged,
        _disk_errors(request, source),  # innermost: what fills the disk is still there
    ):
        view = source.path
        if source.path.is_dir():
            view = _view(source.path, scratch / "source", request.allow_code)
        steps = Steps(request.model, request.wanted, source, view, staged, scratch, Path(request.home), job)
        made = steps.run(allow_code=request.allow_code, pre=request.pre)
        agree(source.checkpoint, inspect(staged), request.wanted)
        with ThreadPoolExecutor(1) as side:
            proved = side.submit(steps.prove)
            files = record.entries(staged)
            proved.result()
        kept = record.manifest(request, source, files, made, time.monotonic() - began)
        manifests.write(staged, kept)
        limit = build(QualityLimit, request.limit) if request.limit else None
        report = gate.pass_or_quarantine(request, source, staged, limit, scratch, job) if limit else None
        job.progress("publish")
        with store.changing(request.model, request.store):
            store.publish(staged, request.folder)
    return record.result(request, source, kept, made=True, report=report)


def agree(source: Checkpoint, made: Checkpoint, wanted: Target) -> None:
    """ConversionFailed unless what was made is the same model: a library that left something out does not say so."""
    same = {
        "format": (wanted.artifact.format, made.format),
        "layers": (source.layers, made.layers),
        "width": (source.hidden, made.hidden),
        "vocabulary": (source.vocab, made.vocab),
    }
    other = [f"{what} {found}, not {expected}" for what, (expected, found) in same.items() if expected != found]
    if not 0.9 < made.parameters / max(1, source.parameters) < 1.5:  # untied embeddings, padding
        other.append(f"{made.parameters:,} parameters, not {source.parameters:,}")
    if other:
        raise ConversionFailed(f"what was made is not the same model: it has {'; '.join(other)}")


def _view(source: Path, view: Path, allow_code: bool) -> Path:
    """A folder of links to the files that a converter may see: no code is among them unless it is allowed."""
    view.mkdir()
    for path in sorted(source.iterdir()):
        named = path.suffix in VIEWED or path.name.startswith("LICENSE")
        if path.is_file() and (allow_code or named) and path.name not in (manifests.NAME, gate.NAME):
            (view / path.name).symlink_to(path.resolve())
    return view
