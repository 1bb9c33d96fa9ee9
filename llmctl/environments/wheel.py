"""The wheel of the llmctl that is running, from a checkout or installed: the same bytes from the same files, always.

Made with the standard library alone. Its files are stored, not compressed: what a compressor makes of them differs from
one zlib to another, and the name of a release with it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import llmctl
from llmctl.errors import Refused

DISTRIBUTION = "llmctl-fleet"
PACKAGE = Path(llmctl.__file__).parent
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
WHEEL = "Wheel-Version: 1.0\nGenerator: llmctl\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make(folder: Path) -> Path:
    """Write the wheel into `folder` (made if missing), whole or not at all; its path."""
    stem = f"{DISTRIBUTION.replace('-', '_')}-{llmctl.__version__}"
    path = folder / f"{stem}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    temp = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        with zipfile.ZipFile(temp, "w", zipfile.ZIP_STORED) as archive:
            for name, content in _contents(f"{stem}.dist-info"):
                entry = zipfile.ZipInfo(name, FIRST_DAY)
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, content)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    return path


def release_id(wheel: Path) -> str:
    """The name of the release that this wheel is: its version and the first 8 hex digits of its sha256."""
    return f"{wheel.name.split('-')[1]}-{hashlib.sha256(wheel.read_bytes()).hexdigest()[:8]}"


def _contents(info: str) -> Iterator[tuple[str, bytes]]:
    """Every file of the wheel by its name in it, RECORD last as the standard wants it."""
    rows = []
    for name, content in (*_package(), *_about(info)):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append((name, f"sha256={digest}", str(len(content))))
        yield name, content
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
    yield f"{info}/RECORD", table.getvalue().encode()


def _package() -> Iterator[tuple[str, bytes]]:
    for path in sorted(PACKAGE.rglob("*")):
        parts = path.relative_to(PACKAGE.parent).parts
        if path.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            yield "/".join(parts), path.read_bytes()


def _about(info: str) -> Iterator[tuple[str, bytes]]:
    """The metadata of the installed distribution; its description is left out, which is no part of a release."""
    try:
        found = metadata.distribution(DISTRIBUTION)
        about, entries = found.read_text("METADATA"), found.read_text("entry_points.txt")
    except metadata.PackageNotFoundError:
        about = entries = None
    hint = "pip install it, or in its checkout: pip install -e ."
    if about is None or entries is None:
        raise Refused(f"this llmctl is not installed, so that what it needs is not known ({PACKAGE})", hint=hint)
    if found.version != llmctl.__version__:
        raise Refused(f"this llmctl is {llmctl.__version__}, and was installed as {found.version}", hint=hint)
    head = [line for line in about.partition("\n\n")[0].splitlines() if not line.startswith("Description")]
    yield f"{info}/METADATA", "\n".join([*head, ""]).encode()
    yield f"{info}/WHEEL", WHEEL.encode()
    yield f"{info}/entry_points.txt", entries.encode()
