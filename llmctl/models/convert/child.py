"""A converter's process: its request goes in on stdin, one JSON answer comes back on stdout, its log is kept aside.

It has a process group of its own and ends with the job, however that ends; its memory is the system's again then.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.errors import ConversionFailed, LlmctlError, from_dict
from llmctl.files import sync
from llmctl.jobs.context import Context
from llmctl.processes import group, own_environment

PROCESSES = "llmctl.models.convert.processes"
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS", "PYTHONPATH", "LLMCTL_JOB")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
LOG_LINES = 20
EVERY = 0.1  # seconds between two looks at it
WRITE_OUT = 0.5  # seconds


@dataclass(frozen=True)
class Step:
    """One process: its module, what it is told, and the file or folder whose growth to `bytes` shows how far it is."""

    name: str
    module: str
    request: Mapping[str, Any]
    grows: Path
    bytes: int


def run(step: Step, scratch: Path, job: Context) -> dict[str, Any]:
    """The answer of the process, with `peak_bytes` of its resident memory; its LlmctlError, or ConversionFailed."""
    log = scratch / f"{step.module}.log"
    argv, over = [sys.executable, "-m", f"{PROCESSES}.{step.module}"], threading.Event()
    threading.Thread(target=_write_out, args=(step.grows, over), daemon=True).start()
    try:
        with (
            open(log, "wb") as errors,
            group(argv, cwd=_empty(scratch), env=environment(scratch), stderr=errors) as process,
        ):
            assert process.stdin and process.stdout
            with contextlib.suppress(BrokenPipeError):  # it is gone already: its log says why
                process.stdin.write(json.dumps(dict(step.request)).encode() + b"\n")
                process.stdin.flush()  # and stays open: its end tells the process that we are gone
            while process.poll() is None:
                job.progress(step.name, min(_size(step.grows), step.bytes), step.bytes)
                time.sleep(EVERY)
            answer = process.stdout.read()
    finally:
        over.set()
    return _read(step, answer, process.returncode, log)


def environment(scratch: Path) -> dict[str, str]:
    """What a converter sees of ours: no secrets, no hub, and a home of its own that goes with the scratch folder."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    own = dict.fromkeys(("HOME", "HF_HOME", "TMPDIR"), str(scratch))
    return own_environment({**kept, **OFFLINE, **own})


def _read(step: Step, answer: bytes, status: int, log: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:
        found = {}
    if "result" in found:
        return {**found["result"], "peak_bytes": found["peak_bytes"]}
    if "error" in found:
        raise _with_log(from_dict(found["error"]), log)
    end = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    hint = "it may have run out of memory: see `dmesg`, or convert on a larger host" if status == -9 else None
    raise _with_log(ConversionFailed(f"{step.name}: the converter {end}", hint=hint), log)


def _with_log(error: LlmctlError, log: Path) -> LlmctlError:
    if isinstance(error, ConversionFailed):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        error.details.setdefault("log", lines[-LOG_LINES:])
    return error


def _empty(scratch: Path) -> Path:
    """An empty folder to start in: Python looks for modules there."""
    folder = scratch / "cwd"
    folder.mkdir(exist_ok=True)
    return folder


def _write_out(path: Path, over: threading.Event) -> None:
    """Let the disk write what the process makes while it makes it: publishing waits for the disk."""
    while not over.wait(WRITE_OUT):
        for file in _files(path):
            with contextlib.suppress(OSError):
                sync(file)


def _files(path: Path) -> list[Path]:
    """The file, or those in the folder; none when it is not there."""
    if path.is_dir():
        return [file for file in path.iterdir() if file.is_file()]
    return [path] if path.is_file() else []


def _size(path: Path) -> int:
    """Bytes in a file or a folder, 0 when it is not there."""
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in _files(path))
    return 0
