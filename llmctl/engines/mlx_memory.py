"""How much memory MLX may take of a Mac's: Metal's recommended working set. Never run: this project has no Mac."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CACHE_SHARE, MOST_CACHE = 16, 2**30
"""Of the working set one part in this many, and at most so many bytes, may be buffers that MLX keeps for later use:
by default it keeps all that it ever had, which then is missing to other slots."""


@dataclass(frozen=True)
class Limits:
    """Bytes that are wired down (never paged out), that are allotted before MLX fails, and that it keeps unused."""

    wired: int
    memory: int
    cache: int


def limits(working_set: int) -> Limits:
    """Those for Metal's recommended working set: weights and keys stay wired, and more than fits is an error."""
    return Limits(working_set, working_set, min(working_set // CACHE_SHARE, MOST_CACHE))


def bound(mlx: Any) -> Limits | None:
    """Set the limits of the module `mlx.core` where it computes on Metal; None elsewhere."""
    if not mlx.metal.is_available() or mlx.default_device() == mlx.cpu:
        return None
    wanted = limits(int(mlx.device_info()["max_recommended_working_set_size"]))
    mlx.set_wired_limit(wanted.wired)
    mlx.set_memory_limit(wanted.memory)
    mlx.set_cache_limit(wanted.cache)
    return wanted
