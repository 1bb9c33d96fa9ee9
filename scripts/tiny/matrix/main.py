"""The command: makes the models of the matrix that are missing, with their twins, and prints {name: path} on stdout."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from .. import store
from . import catalog, recipes

PROCESSES = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="tiny-matrix", description=__doc__)
    parser.add_argument("--out", type=Path, default=store.default(), help="the cache (default: $LLMCTL_TINY)")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted(recipes.RECIPES), help="these models only")
    parser.add_argument("--toml", type=Path, metavar="DIR", help="also a configuration folder with all tiny models")
    arguments = parser.parse_args()
    root = arguments.out.expanduser().resolve()
    names = recipes.wanted(arguments.only)
    folders = {name: recipes.edition(root, name) / name for name in names}
    if missing := [name for name in names if not folders[name].is_dir()]:
        with store.locked(root / "matrix"):
            _make_all(missing, root)
    for edition in {folder.parent for folder in folders.values()}:
        store.forget(root / "matrix", edition)
    if arguments.toml:
        catalog.write(arguments.toml, {name: folders[name] / recipes.RECIPES[name].file for name in names}, root)
    print(json.dumps({name: str(folders[name] / recipes.RECIPES[name].file) for name in names}, indent=2))
    return 0


def _make_all(names: list[str], home: Path) -> None:
    """First the models that need no other, then those made from them; side by side."""
    processes = min(PROCESSES, os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for derived in (False, True):
            now = [name for name in names if bool(recipes.RECIPES[name].needs) == derived]
            list(pool.map(partial(_make, home), now))


def _make(home: Path, name: str) -> None:
    folder = recipes.edition(home, name)
    if (folder / name).is_dir():
        return
    folder.mkdir(exist_ok=True)
    started = time.monotonic()

    def log(line: str) -> None:
        print(f"{name}: {line}", file=sys.stderr, flush=True)

    make: Callable[[Path], None] = partial(recipes.make, name, folder, home, log)
    store.put(folder / name, make)
    log(f"done in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
