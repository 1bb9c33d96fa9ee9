"""One measurement of an engine's memory, in a process of its own: ENGINE PATH CONTEXT PARALLEL → JSON on stdout.

Bytes are `Rss` of /proc/self/smaps_rollup: anonymous memory and every page of a mapped file that this process has
touched, so llama.cpp's mapped weights count as soon as they were read through the mapping. `imported` is taken when
the engine's libraries are in memory and it has checked the model, `full` is the most that was seen while `parallel`
sequences filled their context.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from llmctl.domain import EngineSpec, Event, Failure, GenerateRequest, Sampling
from llmctl.models.checkpoint import inspect

NEW = 4  # tokens each sequence generates at the end of its context


def resident() -> int:
    """Rss of this process in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


def measure(engine_name: str, path: str, context: int, parallel: int) -> dict[str, int]:
    found = inspect(path)
    spec = EngineSpec(engine_name, "m", path, found.format, context=context, parallel=parallel, device="cpu")
    adapter = importlib.import_module(f"llmctl.engines.{engine_name}")
    adapter.check(spec)
    if engine_name == "llamacpp":  # its check opens the library on a GPU only
        importlib.import_module("llmctl.engines.llamacpp_library").open_library()
    imported = resident()
    events: list[Event] = []
    engine = adapter.load(spec, lambda stage, done, total: None, events.append)
    prompt = context - NEW
    for i in range(parallel):
        ids = tuple((7919 * (i + 1) + 31 * n) % min(found.vocab, 30_000) for n in range(prompt))
        engine.submit(
            GenerateRequest(str(i), prompt=ids, sampling=Sampling(temperature=0), max_tokens=NEW, ignore_eos=True)
        )
    full = 0
    while engine.step():
        full = max(full, resident())
    if failed := [event for event in events if isinstance(event, Failure)]:
        raise RuntimeError(str(failed[0].error))
    return {"imported": imported, "full": full}


def main(argv: list[str]) -> None:
    engine, path, context, parallel = argv
    answer: dict[str, Any] = measure(engine, path, int(context), int(parallel))
    print(json.dumps(answer), flush=True)
    os._exit(0)  # as the worker ends: torch's and mlx's teardown is of no interest


if __name__ == "__main__":
    main(sys.argv[1:])
