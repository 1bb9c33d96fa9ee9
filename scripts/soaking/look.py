"""One look at a slot from outside: memory, descriptors, threads, children, zombies, files, logs, metric series."""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmctl.processes import memory_bytes
from llmctl.slots import verbs


@dataclass(frozen=True)
class Sample:
    """What was seen at `at` seconds of the run. Memory is resident bytes, `log` those of the longest log file; `steady`
    is False while a swap is under way, when there are two engines."""

    at: float
    model: str | None
    engine: int | None
    steady: bool
    memory: int
    engine_memory: int
    descriptors: int
    threads: int
    children: int
    zombies: frozenset[int]
    temporary: int
    series: int
    log: int
    crashes: int


def look(home: Path, port: int, temporary: Path, at: float) -> Sample:
    """Of the slot server on `port`, whose temporary files go into a folder of their own."""
    row = verbs.status(home, [port])[0]
    server, engine = row.runner_pid or 0, row.pid
    below = list(children(server))
    return Sample(
        at, row.model, engine, row.state == "ready", memory_bytes(server), memory_bytes(engine or 0),
        _count(f"/proc/{server}/fd"), _count(f"/proc/{server}/task"), len(below),
        frozenset(pid for pid in below if is_zombie(pid)), sum(1 for _ in temporary.rglob("*")), series(port),
        max((size for path in home.rglob("*") if (size := _log_size(path))), default=0), row.crashes,
    )  # fmt: skip


def children(pid: int) -> Iterator[int]:
    """All processes below one."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from children(child)


def is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def series(port: int) -> int:
    """Lines of the slot's metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(1 for line in lines if line and not line.startswith("#"))


def _count(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0


def _log_size(path: Path) -> int:
    if ".log" not in path.name and path.suffix not in (".err", ".jsonl"):
        return 0
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
