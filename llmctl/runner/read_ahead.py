"""The next model's weights come into the page cache while the old model still serves."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from llmctl.backends.page_cache import bring_in

WEIGHTS = (".safetensors", ".gguf", ".npz", ".bin")


@contextlib.contextmanager
def reading_ahead(path: Path, most: int) -> Iterator[None]:
    """Within the block a thread reads the weights at `path`, a file or a folder, up to `most` bytes of them.

    More than is free would drive out what serves now. What cannot be read is left to the engine's own words.
    """
    over = threading.Event()
    thread = threading.Thread(target=_read, args=(files(path), most, over), name="read ahead", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def files(path: Path) -> list[Path]:
    """The files of a model's weights: those of its folder, or a GGUF file and the further ones of its split."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
    stem, split, rest = path.name.partition("-00001-of-")
    return sorted(path.parent.glob(f"{stem}-*-of-{rest}")) if split else [path]


def _read(paths: list[Path], most: int, over: threading.Event) -> None:
    before = 0
    for path in paths:
        done = 0
        with contextlib.suppress(OSError):
            for done in bring_in(path):
                if over.is_set() or before + done >= most:
                    return
        before += done
