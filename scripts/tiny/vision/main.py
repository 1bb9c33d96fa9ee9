"""The command: prints where the vision model is, in each of its formats, and makes what is missing."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

from .. import converting, store

CHECKPOINT, GGUF, PROJECTOR = "tiny-vision", "tiny-vision-gguf", "tiny-vision-mmproj"
FILES = {CHECKPOINT: "", GGUF: converting.FILE, PROJECTOR: "mmproj.gguf"}
"""What an engine loads, in the folder of each; empty for the folder itself."""


def main() -> int:
    """Print {name: path} on stdout; progress goes to stderr."""
    parser = argparse.ArgumentParser(prog="tiny-vision", description=__doc__)
    parser.add_argument("--out", type=Path, default=store.default(), help="the cache (default: $LLMCTL_TINY)")
    home = parser.parse_args().out.expanduser().resolve()
    folder = edition(home)
    if missing := [name for name in FILES if not (folder / name).is_dir()]:
        with store.locked(folder):
            for name in missing:
                _make(folder, home, name)
    store.forget(home, folder)
    print(json.dumps({name: str(folder / name / file) for name, file in FILES.items()}, indent=2))
    return 0


def edition(home: Path) -> Path:
    """The folder for what these sources and those of the other tiny models would make."""
    digest = hashlib.sha256(store.edition(home).name.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return home / digest.hexdigest()[:8]


def _make(folder: Path, home: Path, name: str) -> None:
    if (folder / name).is_dir():
        return
    started = time.monotonic()

    def log(line: str) -> None:
        print(f"{name}: {line}", file=sys.stderr, flush=True)

    def make(unfinished: Path) -> None:
        if name == CHECKPOINT:
            from . import training

            training.train(unfinished, log)
        elif name == GGUF:
            converting.convert(folder / CHECKPOINT, unfinished, "f16", home)
        else:
            from . import projector

            projector.convert(folder / CHECKPOINT, unfinished / FILES[name], home)

    store.put(folder / name, make)
    log(f"done in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
