"""The folder of finished models: its name says what they were made from, and nothing in it is ever half done."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

LIBRARIES = ("torch", "transformers", "tokenizers", "sentencepiece")
UNFINISHED = ".making-"
CONVERSION = Path(__file__).parents[2] / "llmctl" / "models" / "convert"
FORGET = 7 * 86400.0
"""Seconds without use after which an edition of older sources is removed; each has up to 2.5 GB."""


def default() -> Path:
    """`$LLMCTL_TINY`, else a folder of the user's cache."""
    return Path(os.environ.get("LLMCTL_TINY") or "~/.cache/llmctl-tiny").expanduser()


def edition(root: Path) -> Path:
    """The folder for what these sources would make with these libraries."""
    digest = hashlib.sha256()
    sources = [path for path in Path(__file__).parent.glob("*.*") if path.suffix in (".py", ".toml")]
    for source in sorted([*sources, *(CONVERSION / name for name in ("fetch.py", "processes/gguf_base.py"))]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {_version(library)}\n".encode())
    return root / digest.hexdigest()[:8]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One maker at a time; what an interrupted one left is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for litter in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(litter)
        yield


def forget(root: Path, used: Path) -> None:
    """Mark the edition `used`, and remove the others that nobody has used for long."""
    (used / ".lock").touch()
    for lock in root.glob("????????/.lock"):
        if time.time() - lock.stat().st_mtime > FORGET:
            shutil.rmtree(lock.parent, ignore_errors=True)


def put(folder: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill an empty folder of the same name elsewhere, then move it into place. Call it `locked`."""
    unfinished = folder.parent / f"{UNFINISHED}{os.getpid()}" / folder.name
    unfinished.mkdir(parents=True)
    try:
        make(unfinished)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished.parent)


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "absent"
