"""Apple GPUs on unified memory. Never run: this project has no Mac; its parsers are tested on documented output."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

from llmctl.backends import Memory, cpu
from llmctl.errors import Unsupported

NAME = "metal"
GIB = 2**30


def detect() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def memory() -> Memory:
    """What the GPU may wire down of the unified memory, and how much of that is free."""
    host = cpu.darwin_memory()
    try:
        wired_limit = int(cpu.command("sysctl", "-n", "iogpu.wired_limit_mb"))
    except (Unsupported, ValueError):  # macOS before 14 has no such key
        wired_limit = 0
    total = working_set(host.total, wired_limit)
    return Memory(total, min(host.free, total))


def working_set(memsize: int, wired_limit_mb: int) -> int:
    """Metal's recommendedMaxWorkingSetSize in bytes: the operator's iogpu.wired_limit_mb, or by default two thirds of
    the memory up to 36 GiB and three quarters above (reported values, e.g. 21.3 of 32 and 48 of 64 GiB)."""
    if wired_limit_mb > 0:
        return min(memsize, wired_limit_mb * 2**20)
    return memsize * 2 // 3 if memsize <= 36 * GIB else memsize * 3 // 4


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` for an engine; operators that torch lacks on MPS run on the CPU instead of failing."""
    return {**cpu.offline(base), "PYTORCH_ENABLE_MPS_FALLBACK": "1"}
