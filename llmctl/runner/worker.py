"""The engine process: loads one model and turns request frames into event frames.

    python -m llmctl.runner.worker FD PARENT_PID

FD is a socket inherited from the slot server. The main thread owns the model; a reader thread takes frames off the
socket and ends the process when the slot server is gone. Nothing here knows HTTP.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl.domain import ENGINE, REST, WAKE, Engine, EngineSpec, Event, Failure, GenerateRequest, Progress, Task, build
from llmctl.engines import installed
from llmctl.engines.profiling import Profiler
from llmctl.engines.warm import warm
from llmctl.errors import LlmctlError, LoadFailed, RequestError
from llmctl.runner import frames
from llmctl.runner.read_ahead import reading_ahead

BEAT = 0.5
REPORT_EVERY = 0.1


class Link:
    """The socket with what waits on each side of it. `emit` may be called from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.frames = frames.receive(sock)
        self.inbox: deque[tuple[dict[str, Any], bytes]] = deque()
        self.events: deque[Event] = deque()
        self.work = threading.Event()
        self.sending = threading.Lock()

    def read(self) -> None:
        """The reader thread: fills the inbox; the end of the socket is the end of the process."""
        try:
            for frame in self.frames:
                self.inbox.append(frame)
                self.work.set()
        finally:
            os._exit(0)

    def emit(self, event: Event) -> None:
        if isinstance(event, Failure) and event.id == ENGINE:
            self.send({"t": "failed", "error": dict(event.error)})
            os._exit(1)
        self.events.append(event)
        self.work.set()

    def send(self, head: dict[str, Any]) -> None:
        with self.sending:
            self.sock.sendall(frames.encode(head))

    def flush(self) -> None:
        """Send all waiting events as one frame."""
        if self.events:
            batch = [self.events.popleft() for _ in range(len(self.events))]
            self.send({"t": "events", "e": frames.pack_events(batch)})

    def wait(self, timeout: float | None) -> None:
        self.work.wait(timeout)
        self.work.clear()

    def take(self) -> dict[str, Any]:
        """The next frame's head, whenever it comes."""
        while not self.inbox:
            self.wait(None)
        return self.inbox.popleft()[0]


def main(argv: list[str]) -> int:
    fd, parent = int(argv[0]), int(argv[1])
    die_with(parent)
    link = Link(socket.socket(fileno=fd))
    threading.Thread(target=link.read, name="frames", daemon=True).start()
    first = link.take()
    if first["t"] == "warm":
        try:
            warm(first["engine"])
        except LlmctlError as error:
            link.send({"t": "failed", "error": error.to_dict()})
            return 1
        link.send({"t": "warm"})
        first = link.take()
    spec = build(EngineSpec, first["spec"])
    try:
        engine = load(spec, link)
    except LlmctlError as error:
        link.send({"t": "failed", "error": error.to_dict()})
        return 1
    except Exception as error:
        traceback.print_exc()
        problem = LoadFailed(f"{spec.model} on {spec.engine}: {type(error).__name__}: {error}")
        link.send({"t": "failed", "error": problem.to_dict()})
        return 1
    link.send({"t": "ready", "identity": asdict(engine.identity)})
    run(engine, link)
    engine.close()
    link.flush()
    return 0


def load(spec: EngineSpec, link: Link) -> Engine:
    """The engine of `spec`, loaded; progress goes out at most ten times a second."""
    last = ("", 0.0)

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] >= REPORT_EVERY:
            last = (stage, now)
            link.send({"t": "progress", "stage": stage, "done": done, "total": total})

    with reading_ahead(spec):
        return _loaded(spec, link, progress)


def _loaded(spec: EngineSpec, link: Link, progress: Progress) -> Engine:
    progress("import", 0, 0)
    installed(spec.engine)
    adapter = importlib.import_module(f"llmctl.engines.{'spread' if spec.spread else spec.engine}")
    adapter.check(spec)
    progress("load", 0, 0)
    engine: Engine = adapter.load(spec, progress, link.emit)
    return engine


def run(engine: Engine, link: Link) -> None:
    """Take frames, step, send events, beat; until told to stop."""
    beat_at, profiler = 0.0, Profiler(engine.identity.engine)
    while True:
        while link.inbox:
            head, tail = link.inbox.popleft()
            if head["t"] == "stop":
                return
            if head["t"] == "profile":
                link.send({"t": "profiled", **profiled(profiler, head["to"])})
            else:
                take(engine, link, head, tail)
        busy = engine.step()
        link.flush()
        now = time.monotonic()
        if now >= beat_at:
            beat_at = now + BEAT
            link.send({"t": "beat", "steps": getattr(engine, "steps", None), "held": getattr(engine, "held", None)})
            profiler.look()
        if not busy and not link.inbox and not link.events:
            link.wait(beat_at - now)


def take(engine: Engine, link: Link, head: dict[str, Any], tail: bytes) -> None:
    """One frame from the slot server."""
    if head["t"] == "cancel":
        engine.cancel(head["id"])
        return
    if head["t"] in (REST, WAKE):
        link.send({"t": "turned", "error": turned(engine, head["t"])})
        return
    work = Task(**head["task"]) if head["t"] == "task" else GenerateRequest.from_wire(head["request"], tail)
    try:
        if isinstance(work, Task):
            engine.ask(work)
        elif work.adapter and work.adapter not in engine.identity.adapters:
            raise RequestError(f"no adapter {work.adapter[:100]!r} is loaded", status=404, param="adapter")
        else:
            engine.submit(work)
    except LlmctlError as error:
        link.emit(Failure(work.id, error.to_dict()))


def profiled(profiler: Profiler, to: str | None) -> dict[str, Any]:
    """Start a profile, or end it and write it to the file `to`: its value, or an error."""
    try:
        if to:
            return {"value": dict(profiler.stop(Path(to)))}
        profiler.start()
        return {"value": {}}
    except LlmctlError as error:
        return {"error": error.to_dict()}
    except Exception as error:
        return {"error": LlmctlError(f"the profile failed: {type(error).__name__}: {error}").to_dict()}


def turned(engine: Any, way: str) -> dict[str, Any] | None:
    """Have it rest or wake; the error when it does not."""
    try:
        (engine.rest if way == REST else engine.wake)()
    except LlmctlError as error:
        return error.to_dict()
    return None


def die_with(parent: int) -> None:
    """End when the slot server ends: the kernel's signal on Linux, the closed socket everywhere.

    The signal follows the thread that spawned us, which is the slot server's main thread.
    """
    if sys.platform == "linux":
        import ctypes
        import signal

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # the libraries' own teardown takes up to a second, and there is nothing left to save
