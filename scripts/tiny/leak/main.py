"""The command: makes the two models that are missing, and their GGUF twins, and prints {name: path} on stdout."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from functools import partial
from pathlib import Path

from .. import converting, store
from . import checkpoint

NAMES = {"tiny-leak": True, "tiny-tight": False}
"""Whether each thinks aloud."""
TYPE = "f16"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tiny-leak", description=__doc__)
    parser.add_argument("--out", type=Path, default=store.default(), help="the cache (default: $LLMCTL_TINY)")
    root = parser.parse_args().out.expanduser().resolve()
    folder, paths = edition(root), {}
    with store.locked(folder):
        for name, leak in NAMES.items():
            made, gguf = folder / name, folder / f"{name}-gguf"
            if not made.is_dir():
                store.put(made, partial(checkpoint.make, leak=leak, log=partial(_log, name)))
            if not gguf.is_dir():
                store.put(gguf, partial(_convert, made, root))
            paths |= {name: str(made), f"{name}-gguf": str(gguf / converting.FILE)}
    store.forget(folder.parent, folder)
    print(json.dumps(paths, indent=2))
    return 0


def edition(root: Path) -> Path:
    """The folder for what these sources would make beside this edition of the other models."""
    digest = hashlib.sha256(store.edition(root).name.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return root / "leak" / digest.hexdigest()[:8]


def _convert(source: Path, home: Path, target: Path) -> None:
    converting.convert(source, target, TYPE, home)


def _log(name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
