"""Where the time of an engine's process goes: torch's own trace, or samples of the thread that owns the model."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from llmctl.errors import Refused, Unsupported

LONGEST = 60.0  # seconds after which one that nobody ends is given up: it holds all that it has seen in memory
EVERY = 0.004  # seconds between two samples
TOP = 10
IDLE = ("wait", "llmctl/runner/worker.py")  # the function in which the thread stands that has no work
Frame = tuple[str, str]  # a function's name and file


class Profile(Protocol):
    """One that runs. `stop` writes its file and tells `way`, `idle` (the share without work, where it is known) and
    `top`."""

    def stop(self, path: Path) -> Mapping[str, Any]: ...


class Profiler:
    """The one profile that an engine's process may run; asked by its main thread only."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self._running: Profile | None = None
        self._began = 0.0

    def start(self) -> None:
        """Unsupported for an engine whose work is done by another program."""
        if self.engine == "upstream":
            raise Unsupported("the work of an upstream engine is done by another program", hint="profile it there")
        if self._running:
            raise Refused("a profile runs already", hint="wait until it is over")
        self._running = TorchProfile() if self.engine == "torch" else Samples(threading.get_ident())
        self._began = time.monotonic()

    def stop(self, path: Path) -> Mapping[str, Any]:
        """End it and write it to `path`; what it saw."""
        running, self._running = self._running, None
        if running is None:
            raise Refused(f"no profile runs; one ends by itself after {LONGEST:.0f} s", hint="start it again")
        return {**running.stop(path), "path": str(path), "seconds": round(time.monotonic() - self._began, 3)}

    def look(self) -> None:
        """Give up one that is overdue."""
        if self._running and time.monotonic() - self._began > LONGEST:
            self._running = None


class TorchProfile:
    """torch.profiler's, of all operators on CPU and CUDA: a trace for chrome://tracing or ui.perfetto.dev."""

    def __init__(self) -> None:
        from torch.profiler import ProfilerActivity, profile, supported_activities

        wanted = {ProfilerActivity.CPU, ProfilerActivity.CUDA}
        self._profile = profile(activities=list(wanted & supported_activities()))  # type: ignore[no-untyped-call]
        self._profile.start()

    def stop(self, path: Path) -> Mapping[str, Any]:
        self._profile.stop()
        self._profile.export_chrome_trace(str(path))
        seconds = {
            row.key: (row.self_device_time_total or row.self_cpu_time_total) / 1e6
            for row in self._profile.key_averages()
        }
        return {"way": "torch.profiler", "idle": None, "top": top(seconds)}


class Samples:
    """Stacks of one thread, taken by another; a file for speedscope.app.

    What a C library does without a Python frame of its own counts for the function that called it.
    """

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._stacks: dict[tuple[Frame, ...], float] = {}
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._run, name="samples", daemon=True)
        self._sampler.start()

    def _run(self) -> None:
        before, end = time.monotonic(), time.monotonic() + LONGEST
        while not self._over.wait(EVERY) and before < end:
            stack, now = _stack(sys._current_frames().get(self._thread)), time.monotonic()
            self._stacks[stack] = self._stacks.get(stack, 0.0) + now - before
            before = now

    def stop(self, path: Path) -> Mapping[str, Any]:
        self._over.set()
        self._sampler.join()
        busy = {stack: seconds for stack, seconds in self._stacks.items() if IDLE not in stack}
        path.write_text(json.dumps(speedscope(busy)), encoding="utf-8")
        own: dict[str, float] = {}
        for stack, seconds in busy.items():
            name = "{} ({})".format(*stack[-1]) if stack else "?"
            own[name] = own.get(name, 0.0) + seconds
        whole = sum(self._stacks.values())
        return {"way": "samples", "idle": 1 - sum(own.values()) / whole if whole else None, "top": top(own)}


def top(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """The TOP names by their own seconds, with their share of all."""
    whole = sum(seconds.values()) or 1.0
    most = sorted(seconds, key=lambda name: -seconds[name])[:TOP]
    return [{"name": name, "seconds": round(seconds[name], 4), "share": seconds[name] / whole} for name in most]


def speedscope(stacks: Mapping[tuple[Frame, ...], float]) -> dict[str, Any]:
    """A file in speedscope's format (https://www.speedscope.app/file-format-schema.json) of stacks and seconds."""
    places = {frame: at for at, frame in enumerate(dict.fromkeys(frame for stack in stacks for frame in stack))}
    profile = {
        "type": "sampled", "name": "the engine's thread", "unit": "seconds", "startValue": 0,
        "endValue": sum(stacks.values()), "samples": [[places[frame] for frame in stack] for stack in stacks],
        "weights": list(stacks.values()),
    }  # fmt: skip
    return {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "shared": {"frames": [{"name": name, "file": file} for name, file in places]},
        "profiles": [profile],
    }


def _stack(frame: FrameType | None) -> tuple[Frame, ...]:
    """The functions of a stack, the outermost first; of a file, its last three parts."""
    found = []
    while frame:
        code = frame.f_code
        found.append((code.co_name, "/".join(Path(code.co_filename).parts[-3:])))
        frame = frame.f_back
    return tuple(reversed(found))
