"""Which process is meant: a pid counts only together with its start time and the boot it belongs to."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRACE = 0.5
"""Seconds that a program has to be gone after SIGKILL; one that waits for a driver may never be."""


@dataclass(frozen=True)
class ProcessId:
    """A process that can be told from a later one with the same pid. `start` is opaque; `boot` names the boot."""

    pid: int
    start: str
    boot: str

    @staticmethod
    def of(pid: int) -> ProcessId:
        return ProcessId(pid, start_time(pid) or "", boot_id())

    def alive(self) -> bool:
        """True only for this very process: same boot, same start time, not a zombie."""
        return bool(self.start) and self.boot == boot_id() and start_time(self.pid) == self.start

    def signal(self, number: int) -> bool:
        """Signal its process group, only if it is still this process; False when it is not."""
        if not self.alive():
            return False
        try:
            group = os.getpgid(self.pid)
            if group == self.pid:
                os.killpg(group, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> bool:
        return self.signal(signal.SIGKILL)


@functools.cache
def boot_id() -> str:
    """Names this boot of the machine; LLMCTL_BOOT_ID overrides it (containers without one, tests)."""
    if given := os.environ.get("LLMCTL_BOOT_ID"):
        return given
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # macOS, never run by this project
        return subprocess.run(["sysctl", "-n", "kern.boottime"], capture_output=True, text=True).stdout.strip()


def start_time(pid: int) -> str | None:
    """When the process started, as an opaque string; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return None
        seen = subprocess.run(["ps", "-o", "lstart=,stat=", "-p", str(pid)], capture_output=True, text=True).stdout
        return None if not seen.strip() or seen.split()[-1].startswith("Z") else seen.rsplit(None, 1)[0]
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else fields[19]


def memory_bytes(pid: int) -> int:
    """Resident bytes of a process, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and of all below it (on macOS, never run by this project, of itself alone)."""
    below = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            below += path.read_text().split()
    return memory_bytes(pid) + sum(tree_bytes(int(child)) for child in below)


def code() -> str:
    """The folder that this very llmctl is imported from."""
    return str(Path(__file__).parents[1])


def own_environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` for a process of ours, with this very llmctl found by path."""
    path = [code(), *filter(None, [base.get("PYTHONPATH")])]
    return {**base, "PYTHONPATH": os.pathsep.join(path)}


def asked(argv: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str] | None:
    """What a short query said; None when it cannot be started, or not within `timeout` seconds.

    Returns in time whatever the program does: one that the kernel cannot end (a driver that hangs), and one whose
    children hold its output open, are left behind.
    """
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except OSError:
        return None
    assert process.stdout and process.stderr
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        process.stdout.close()
        process.stderr.close()
        return None
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


@contextlib.contextmanager
def group(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process with pipes to its stdin and stdout (unless `options` has others), and a group of its own: nothing of
    that outlives the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(argv, start_new_session=True, **{**pipes, **options})
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()
