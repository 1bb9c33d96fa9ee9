"""The Context of work that a command does itself, while its caller watches: no job, no log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from llmctl.jobs.report import Speed, time_left

EVERY = 0.2  # seconds


class Foreground:
    """Shows what the work says by `on_event` (llmctl.progress), each stage at once and then a few times a second."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self.on_event = on_event
        self.stage, self.began, self.shown, self.speed = "", 0.0, 0.0, Speed()

    def note(self, message: str) -> None:
        self.on_event({"event": "note", "message": message})

    def progress(self, stage: str, done: int = 0, total: int = 0, parts: Mapping[str, tuple[int, int]] = {}) -> None:
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.began, self.shown, self.speed = stage, now, 0.0, Speed()
        if now - self.shown < EVERY and done != total:
            return
        self.shown = now
        speed = self.speed.at(now, done)
        told = {
            "speed": speed,
            "eta": time_left(done, total, speed),
            "parts": {name: list(part) for name, part in parts.items()},
        }
        self.on_event(
            {"event": "stage", "stage": stage, "done": done, "total": total, "elapsed": now - self.began, **told}
        )
