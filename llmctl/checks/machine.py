"""What a proof says of the machine and the programs behind a result: the chip, and the versions that really run."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import llmctl

PACKAGES = {
    "llamacpp": ("xllamacpp",),
    "torch": ("torch", "transformers"),
    "mlx": ("mlx", "mlx-lm"),
    "openvino": ("openvino", "openvino-genai"),
    "scripted": (),
}
TIMEOUT = 20.0

_ASK = """\
import json, platform, sys
from importlib import metadata
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@functools.cache
def chip(backend: str) -> str:
    """The processor that a backend computes on, as its maker calls it; "unknown" where it does not say."""
    if backend == "cuda" and (found := _first_line("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")):
        return found
    if found := _first_line("sysctl", "-n", "machdep.cpu.brand_string"):  # macOS, never run by this project
        return found
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine() or "unknown"


def versions(engine: str, pid: int | None) -> dict[str, str]:
    """Of llmctl, and of the Python and the packages that the engine process `pid` runs on."""
    asked = [_python_of(pid), "-I", "-c", _ASK, *PACKAGES.get(engine, ())]
    found = {"llmctl": llmctl.__version__}
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        found |= json.loads(subprocess.run(asked, capture_output=True, timeout=TIMEOUT, check=True).stdout)
    return found


def _python_of(pid: int | None) -> str:
    """The interpreter that a process was started with; this one where that cannot be read."""
    try:
        first = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except (OSError, ValueError):
        return sys.executable
    return first if first.startswith("/") else sys.executable


def _first_line(*argv: str) -> str | None:
    if not shutil.which(argv[0]):
        return None
    try:
        lines = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0].strip() if lines else None
