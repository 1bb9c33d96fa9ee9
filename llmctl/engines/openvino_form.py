"""OpenVINO's form of a GGUF file: made once, kept beside the file, found again by what it was made from.

It lies in a hidden folder of the artifact's own, `.openvino/<key>/`, and goes with it; where that cannot be written, in
the state folder. It is not made for a CPU: that is what compiling does, at each start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llmctl import paths
from llmctl.domain import Progress
from llmctl.engines.openvino_convert import MODEL
from llmctl.errors import LoadFailed

LAYOUT = 1
"""Of what `openvino_convert` writes: a new one makes all forms anew."""
WHOLE, MAKING = "whole.json", "making-"
ABANDONED = 3600.0  # seconds after which what was being made is nobody's
ROOM = 5
"""Bytes on the disk for one of weights while a form is made: in half precision and in float32, if they are that."""
LAST = 2000  # characters of what the converter said


def find_or_make(source: Path, version: str, progress: Progress) -> Path:
    """The graph of the GGUF file `source` by OpenVINO `version`; LoadFailed when it cannot be made."""
    source = source.absolute()
    key = _key(source, version)
    places = [source.parent / ".openvino", paths.home() / "cache" / "openvino"]
    for place in places:
        if whole(place / key):
            return place / key / MODEL
    roomy = [place for place in places if _has_room(place, source)]
    if not roomy:
        raise LoadFailed(
            f"there is no room for OpenVINO's form of {source.name}, in {' or '.join(map(str, places))}",
            hint=f"it takes up to {ROOM * source.stat().st_size / 1e9:.1f} GB while it is made",
        )
    place = roomy[0]
    _sweep(place, source, key)
    with _making(place) as made:
        _convert(source, made, progress)
        _finish(made)
        _publish(made, place / key)
    return place / key / MODEL


def discard(xml: Path) -> None:
    """Remove a form that cannot be read."""
    shutil.rmtree(xml.parent, ignore_errors=True)


def whole(folder: Path) -> bool:
    """Whether a form is there with all its bytes."""
    try:
        sizes = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _key(source: Path, version: str) -> str:
    """The file's name, and a hash of what the form depends on."""
    found = source.stat()
    facts = json.dumps([LAYOUT, version, found.st_size, found.st_mtime_ns])
    return f"{source.name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def _has_room(place: Path, source: Path) -> bool:
    """Whether `place` can be written and has room."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return shutil.disk_usage(place).free > ROOM * source.stat().st_size
    except OSError:
        return False


def _sweep(place: Path, source: Path, key: str) -> None:
    """Remove what other versions made of this file, and what was never finished."""
    for path in place.iterdir():
        with contextlib.suppress(OSError):
            old = path.name.startswith(f"{source.name}-") and path.name != key and place.name == ".openvino"
            if old or (path.name.startswith(MAKING) and time.time() - path.stat().st_mtime > ABANDONED):
                shutil.rmtree(path)


@contextlib.contextmanager
def _making(place: Path) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix=MAKING, dir=place))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _convert(source: Path, folder: Path, progress: Progress) -> None:
    """Let a process of its own write the form; LoadFailed with its last words."""
    argv = [sys.executable, "-m", "llmctl.engines.openvino_convert", str(source), str(folder)]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=said, stderr=said)
        try:
            while child.poll() is None:
                progress("convert", 0, 0)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.5)
        finally:
            child.kill()
            child.wait()
            assert child.stdin
            child.stdin.close()
        if child.returncode:
            said.seek(0)
            text = said.read().decode("utf-8", "replace")[-LAST:].strip()
            why = text.splitlines()[-1].strip() if text else f"its converter ended with {child.returncode}"
            raise LoadFailed(
                f"OpenVINO cannot read {source.name}: {why}",
                hint="verify its files with `llmctl models verify`, or load it with --engine llamacpp",
                details={"log": text.splitlines()},
            )


def _finish(folder: Path) -> None:
    """Write down how large each file is, when all of them are on the disk."""
    files = [path for path in folder.iterdir() if path.is_file()]
    (folder / WHOLE).write_text(json.dumps({path.name: path.stat().st_size for path in files}), encoding="utf-8")
    for path in [*files, folder / WHOLE, folder]:
        with _descriptor(path) as descriptor:
            os.fsync(descriptor)


def _publish(made: Path, target: Path) -> None:
    """Give it its name, unless another engine was faster."""
    if target.exists() and not whole(target):
        shutil.rmtree(target, ignore_errors=True)
    try:
        os.rename(made, target)
    except OSError:
        if not whole(target):
            raise


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
