"""The command: makes the models that are missing and prints {name: path} on stdout."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .. import converting, store
from . import checkpoint

GGUF = "-gguf"
TYPE = "f32"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tiny-embed", description=__doc__)
    parser.add_argument("--out", type=Path, default=store.default(), help="the cache (default: $LLMCTL_TINY)")
    root = parser.parse_args().out.expanduser().resolve()
    folder = edition(root)
    with store.locked(folder):
        for name, make in recipes(folder, root).items():
            if not (folder / name).is_dir():
                store.put(folder / name, make)
                print(f"{name}: done", file=sys.stderr)
    store.forget(folder.parent, folder)
    names = recipes(folder, root)
    paths = {name: folder / name / (converting.FILE if name.endswith(GGUF) else "") for name in names}
    print(json.dumps({name: str(path) for name, path in paths.items()}, indent=2))
    return 0


def edition(root: Path) -> Path:
    """The folder for what these sources would make beside this edition of the other models."""
    digest = hashlib.sha256(store.edition(root).name.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return root / "embed" / digest.hexdigest()[:8]


def recipes(folder: Path, root: Path) -> dict[str, Callable[[Path], None]]:
    """How each model is made, checkpoints before the files made from them."""
    made: dict[str, Callable[[Path], None]] = {
        "tiny-embed": checkpoint.embedder,
        "tiny-rerank": checkpoint.reranker,
    }
    return made | {name + GGUF: partial(_convert, folder / name, root) for name in made}


def _convert(source: Path, home: Path, target: Path) -> None:
    converting.convert(source, target, TYPE, home)


if __name__ == "__main__":
    sys.exit(main())
