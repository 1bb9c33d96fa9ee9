"""The command: makes the model that is missing, and its GGUF twin, and prints {name: path} on stdout."""

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

NAME, GGUF = "tiny-tools", "tiny-tools-gguf"
TYPE = "f16"


def main() -> int:
    parser = argparse.ArgumentParser(prog=NAME, description=__doc__)
    parser.add_argument("--out", type=Path, default=store.default(), help="the cache (default: $LLMCTL_TINY)")
    root = parser.parse_args().out.expanduser().resolve()
    folder = edition(root)
    makes: dict[str, Callable[[Path], None]] = {
        NAME: partial(checkpoint.make, log=_log),
        GGUF: partial(_convert, folder / NAME, root),
    }
    with store.locked(folder):
        for name, make in makes.items():
            if not (folder / name).is_dir():
                store.put(folder / name, make)
                _log(f"{name}: done")
    store.forget(folder.parent, folder)
    print(json.dumps({NAME: str(folder / NAME), GGUF: str(folder / GGUF / converting.FILE)}, indent=2))
    return 0


def edition(root: Path) -> Path:
    """The folder for what these sources would make beside this edition of the other models."""
    digest = hashlib.sha256(store.edition(root).name.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return root / "tools" / digest.hexdigest()[:8]


def _convert(source: Path, home: Path, target: Path) -> None:
    converting.convert(source, target, TYPE, home)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
