"""The processes of a job, and how they end: those below us, and those marked by the job's token, wherever they are."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from llmctl.processes import ProcessId

TOKEN = "LLMCTL_JOB"
_PDEATHSIG, _SUBREAPER = 1, 36  # linux/prctl.h


def send(process: ProcessId, number: int) -> bool:
    """Signal this very process and no other, not its group; False when it is gone."""
    if sys.platform != "linux":
        if process.alive():
            os.kill(process.pid, number)
            return True
        return False
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:  # the descriptor stays with the process that was looked at, whoever gets its pid next
        if process.alive():
            signal.pidfd_send_signal(fd, number)
            return True
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
    return False


def adopt_orphans() -> None:
    """Make what our descendants leave behind our own children (Linux)."""
    if sys.platform == "linux":
        _prctl(_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """End at once when `parent`, which started us from its main thread, ends (Linux)."""
    if sys.platform == "linux":
        _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def end_children(within: float = 5.0) -> bool:
    """Kill all that is below us, and again what they left, until nothing is; False when something outlives `within`."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        for pid in _below(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        time.sleep(0.01)
    return False


def end_marked(token: str, within: float = 5.0) -> bool:
    """Kill every process that has the token in its environment; False when something outlives `within`."""
    end = time.monotonic() + within
    while found := list(_marked(token)):
        for process in found:
            send(process, signal.SIGKILL)
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _marked(token: str) -> Iterator[ProcessId]:
    mark = f"{TOKEN}={token}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        process = ProcessId.of(int(path.parent.name))
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0") and process.alive() and process.pid != os.getpid():
                yield process


def _below(root: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stat = path.read_text(errors="replace")
            parents[int(path.parent.name)] = int(stat[stat.rindex(")") + 2 :].split()[1])
    found: list[int] = []
    layer = {root}
    while layer := {pid for pid, parent in parents.items() if parent in layer}:
        found += layer
    return found


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
