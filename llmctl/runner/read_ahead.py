"""A model's weights come into the page cache before its engine asks for them: while it imports its libraries, or while
the old model still serves."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from llmctl.backends import cpu
from llmctl.backends.page_cache import bring_in
from llmctl.domain import EngineSpec
from llmctl.errors import Unsupported

WEIGHTS = (".safetensors", ".gguf", ".npz", ".bin")


@contextlib.contextmanager
def reading_ahead(spec: EngineSpec) -> Iterator[None]:
    """Within the block a thread reads the weights of `spec`, as far as half of the free memory goes.

    More would drive out what serves now. What cannot be read is left to the engine's own words.
    """
    over = threading.Event()
    thread = threading.Thread(target=_read, args=(files(spec), over), name="read ahead", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def files(spec: EngineSpec) -> list[Path]:
    """The files of its weights: those of its folder, or a GGUF file and the further ones of its split."""
    path = Path(spec.path)
    if not spec.path or not path.exists():
        return []
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
    stem, split, rest = path.name.partition("-00001-of-")
    return sorted(path.parent.glob(f"{stem}-*-of-{rest}")) if split else [path]


def _read(paths: list[Path], over: threading.Event) -> None:
    before = 0
    with contextlib.suppress(OSError, Unsupported):
        most = cpu.memory().free // 2
        for path in paths:
            for done in bring_in(path):
                if over.is_set() or before + done >= most:
                    return
            before += path.stat().st_size
