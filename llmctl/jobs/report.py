"""How work tells how it goes on: progress in a small file replaced a few times a second, notes to its worker."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EVERY = 0.2
WINDOW = 10.0
SETTLED = 1.0
ENOUGH = 0.01  # of the whole; before that much is done the time left is not guessed
MOST_PARTS = 16


class Speed:
    """Units a second over the last WINDOW seconds; None until SETTLED seconds were seen."""

    def __init__(self) -> None:
        self.seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, done: int) -> float | None:
        if self.seen and done < self.seen[-1][1]:
            self.seen.clear()
        self.seen.append((now, done))
        while len(self.seen) > 2 and self.seen[1][0] <= now - WINDOW:
            self.seen.popleft()
        began, before = self.seen[0]
        return (done - before) / (now - began) if now - began >= SETTLED else None


def time_left(done: int, total: int, speed: float | None) -> float | None:
    """Seconds until `total` at this speed; None rather than a guess."""
    return (total - done) / speed if speed and total * ENOUGH <= done <= total else None


class Reporter:
    """The Context of a job's work: a thread writes what the work said last, so that saying it costs nothing.

    A progress that cannot be written (disk full) is dropped: the next one may be.
    """

    def __init__(self, path: Path, send: Callable[[Mapping[str, Any]], None]) -> None:
        self.path, self.send = path, send
        self.now: tuple[str, int, int, Mapping[str, tuple[int, int]]] = ("", 0, 0, {})
        self.began, self.speed = time.time(), Speed()
        self.written: Any = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self.thread.start()

    def note(self, message: str) -> None:
        self.send({"note": message})

    def progress(self, stage: str, done: int = 0, total: int = 0, parts: Mapping[str, tuple[int, int]] = {}) -> None:
        self.now = (stage, int(done), int(total), {name: (int(d), int(t)) for name, (d, t) in parts.items()})

    def close(self) -> None:
        """Write the last progress."""
        self.over.set()
        self.thread.join()

    def _run(self) -> None:
        stage = ""
        while True:
            over = self.over.wait(EVERY)
            name, done, total, parts = self.now
            if name and name != stage:
                stage, self.began, self.speed = name, time.time(), Speed()
            if name:
                self._write(name, done, total, parts)
            if over:
                return

    def _write(self, stage: str, done: int, total: int, parts: Mapping[str, tuple[int, int]]) -> None:
        speed = self.speed.at(time.monotonic(), done)
        left = time_left(done, total, speed)
        event = {
            "stage": stage,
            "done": done,
            "total": total,
            "speed": speed and round(speed, 3),
            "eta": round(left, 1) if left is not None else None,
            "began": self.began,
            "parts": {name: list(part) for name, part in list(parts.items())[:MOST_PARTS]},
        }
        if event == self.written:
            return
        with contextlib.suppress(OSError):
            temp = self.path.with_suffix(".tmp")
            with open(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
                json.dump(event, file)
            os.replace(temp, self.path)
            self.written = event


def read(path: Path) -> dict[str, Any] | None:
    """The event of the last progress; None before there was one."""
    try:
        found = json.loads(path.read_text())
        began = float(found.pop("began"))
        return {"event": "stage", **found, "elapsed": round(max(0.0, time.time() - began), 2)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
