"""Meters of joules for `bench run`: the processors' own counters, or what the GPUs say that they draw, summed up."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path

from llmctl.checks.bench_cells import Meter
from llmctl.errors import Unsupported

EVERY = 0.5


def meter(backend: str, root: Path = Path("/")) -> Meter | str:
    """What measures the energy of this machine's `backend`, or why nothing does. `root` is where /sys is."""
    if backend == "cpu":
        from llmctl.health import counters

        if counters.energy(root) is None:
            return "this user cannot read the processors' energy counters (/sys/class/powercap)"
        return functools.partial(_processors, root)
    if backend == "cuda":
        from llmctl.health import nvidia

        if not any(sensor.watts is not None for sensor in nvidia.sensors()):
            return "nvidia-smi does not tell what the GPUs draw"
        return _gpus
    return "macOS tells root alone what it draws"


def _processors(root: Path) -> Callable[[], float]:
    from llmctl.health import counters

    before = counters.energy(root)

    def stop() -> float:
        after = counters.energy(root)
        if before is None or after is None:
            raise Unsupported("the processors' energy counters could not be read any more")
        return counters.spent(before, after, root)

    return stop


def _gpus() -> Callable[[], float]:
    """All GPUs of the machine, whoever uses them; sampled, so that runs of a second or less are told badly."""
    ended = threading.Event()
    used = [0.0]

    def sample() -> None:
        last = time.monotonic()
        while not ended.is_set():
            watts = _watts()
            now = time.monotonic()
            used[0] += watts * (now - last)
            last = now
            ended.wait(EVERY)

    thread = threading.Thread(target=sample, name="bench-energy", daemon=True)
    thread.start()

    def stop() -> float:
        ended.set()
        thread.join()
        if not used[0]:
            raise Unsupported("nvidia-smi did not tell what the GPUs drew")
        return used[0]

    return stop


def _watts() -> float:
    from llmctl.health import nvidia

    return sum(sensor.watts or 0.0 for sensor in nvidia.sensors())
