"""The command: which models are wanted, which are there, and where; makes those that are missing."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from . import catalog, store
from .recipes import RECIPES, Job, wanted

PROCESSES = 4
"""At most; each takes one core and 0.6 GB."""


def main() -> int:
    """Print {name: path} on stdout; progress goes to stderr."""
    arguments = _arguments()
    folder = store.edition(arguments.out)
    names = wanted(arguments.only, gguf=arguments.gguf, random=arguments.random)
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        with store.locked(folder):
            _make_all(folder, missing, arguments.out)
    store.forget(arguments.out, folder)
    paths = {name: folder / name / RECIPES[name].file for name in names}
    if arguments.toml:
        catalog.write(arguments.toml, paths)
    print(json.dumps({name: str(path) for name, path in paths.items()}, indent=2))
    return 0


def _make_all(folder: Path, names: Sequence[str], home: Path) -> None:
    """First the models that need no other, then those made from them; side by side."""
    processes = min(PROCESSES, os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for derived in (False, True):
            now = [name for name in names if bool(RECIPES[name].needs) == derived]
            list(pool.map(partial(_make, folder, home), now))


def _make(folder: Path, home: Path, name: str) -> None:
    if (folder / name).is_dir():
        return
    started = time.monotonic()

    def log(line: str) -> None:
        print(f"{name}: {line}", file=sys.stderr, flush=True)

    store.put(folder / name, lambda unfinished: RECIPES[name].make(Job(folder, unfinished, home, log)))
    log(f"done in {time.monotonic() - started:.1f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tiny-models", description=__doc__)
    parser.add_argument("--out", type=Path, default=store.default(), help="the cache (default: $LLMCTL_TINY)")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted(RECIPES), help="these models only")
    parser.add_argument("--gguf", action="store_true", help="the GGUF twins as well")
    parser.add_argument("--toml", type=Path, metavar="FILE", help="also list the models in a models.toml")
    parser.add_argument(
        "--random-05b", dest="random", action="store_true", help="only the random model of 0.5 B, for benchmarks"
    )
    arguments = parser.parse_args()
    arguments.out = arguments.out.expanduser().resolve()
    return arguments


if __name__ == "__main__":
    sys.exit(main())
