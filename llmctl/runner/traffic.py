"""The requests of a slot: which model names are served, who waits, which engine answers (runner.service.Service)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from llmctl import domain
from llmctl.domain import GenerateRequest, Identity, SlotSpec, Task
from llmctl.errors import LlmctlError, RequestError
from llmctl.runner.engine_process import EngineProcess
from llmctl.runner.streams import RequestStream
from llmctl.runner.waiting import WaitingLine
from llmctl.slots.state import Actual, Desired, SlotFolder
from llmctl.slots.supervisor import is_wedged, queue_timeout, retry_after

REMEMBER_NAMES = 24 * 3600.0
UNKNOWN_LOAD = 5.0  # expected load time when none was seen yet
NO_MODEL = {
    domain.EMPTY: "no model is loaded on this port",
    domain.CRASH_LOOP: "the model keeps crashing",
    domain.DISABLED: "this slot is disabled",
    domain.STOPPING: "this slot is being unloaded",
}


class Counts(Protocol):
    """What traffic counts (runner.metrics)."""

    def rejected(self) -> None: ...
    def waited(self, seconds: float) -> None: ...


class Record:
    """A slot's desired and actual state: on disk first (unless `keep` is False), then in memory.

    The desired state is not changed unless it could be written (OSError); the actual one is also told by the processes
    themselves, so `complain` is enough when it cannot.
    """

    def __init__(self, folder: SlotFolder, keep: bool, complain: Callable[[str], None]) -> None:
        self.folder, self.keep, self.complain = folder, keep, complain
        self.desired: Desired = folder.read_desired()
        self.actual: Actual = folder.read_actual()

    def want(self, desired: Desired) -> None:
        if self.keep:
            self.folder.write_desired(desired)
        self.desired = desired

    def note(self, actual: Actual) -> None:
        self.actual = actual
        if self.keep:
            try:
                self.folder.write_actual(actual)
            except OSError as error:
                self.complain(f"the actual state cannot be written: {error}")


class Traffic:
    """Gives each request to the engine that serves now, or lets it wait. `wake` is called for a sleeping slot."""

    def __init__(self, record: Record, counts: Counts, wake: Callable[[], None]) -> None:
        launch = record.desired.launch
        self.limits, self.media = launch.limits, launch.media
        self.record, self.counts, self.wake = record, counts, wake
        self.engine: EngineProcess | None = None
        self.line = WaitingLine()
        self.progress: dict[str, Any] = {}  # of a load that goes on
        self.last_activity = self.waits_since = now()

    def check_model(self, name: str | None) -> None:
        spec, served = self.record.desired.spec, self.record.actual.served
        if spec is None or not name or name == "default":
            return
        asked = name.casefold()
        if asked in {n.casefold() for n in names(spec)} or served.get(asked, 0) > time.time():
            return
        raise RequestError(
            f"this slot serves {spec.model}, not {name[:100]!r}",
            status=404, code="model_not_found", param="model", hint=f"ask for {spec.model!r} or leave `model` empty",
        )  # fmt: skip

    def identity(self) -> Identity | None:
        return self.engine.identity if self.engine else None

    def served_names(self) -> Sequence[str]:
        spec = self.record.desired.spec
        return names(spec) if spec else ()

    def active(self) -> int:
        """Requests that the engine has."""
        return len(self.engine.streams) if self.engine else 0

    def wedged(self) -> bool:
        return self.engine is not None and is_wedged(self.active(), self.engine.silent_for(), self.limits.stall)

    def health(self) -> Mapping[str, Any]:
        state, wedged = self.record.actual.state, self.wedged()
        good = state in (domain.READY, domain.SLEEPING, domain.SWAPPING) and not wedged
        bad = state == domain.CRASH_LOOP or wedged
        return {
            "verdict": "ok" if good else "down" if bad else "degraded",
            "state": state, "model": next(iter(self.served_names()), None), "ready": self.engine is not None,
            "wedged": wedged, "active": self.active(), "queued": len(self.line), "why": self.record.actual.why,
            "progress": self.progress or None, "unused": round(self.unused(), 1),
        }  # fmt: skip

    def unused(self) -> float:
        """Seconds since its last request; 0 while it has any."""
        return 0.0 if self.active() or len(self.line) else now() - self.last_activity

    def figures(self) -> Mapping[str, int | None]:
        engine = self.engine
        return {
            "queue_limit": self.limits.queue, "resident": engine.resident() if engine else 0,
            "held": engine.held if engine else 0,
        }  # fmt: skip

    async def generate(self, request: GenerateRequest) -> RequestStream:
        stream = await self._begun(request)
        try:
            await stream.accepted()
        except asyncio.CancelledError:
            stream.cancel()
            raise
        return stream

    async def ask(self, task: Task) -> Mapping[str, Any]:
        async with await self._begun(task) as stream:
            return await stream.value()

    async def _begun(self, request: GenerateRequest | Task) -> RequestStream:
        """An engine has it, at once or after its turn in the line."""
        self.last_activity = began = now()
        if self.engine and not len(self.line) and self.engine.has_room():
            stream = self.engine.begin(request)
        else:
            stream = await self._wait(request)
        self.counts.waited(now() - began)
        return stream

    async def _wait(self, request: GenerateRequest | Task) -> RequestStream:
        self._may_wait()
        if self.record.actual.state == domain.SLEEPING:
            self.wake()
        timeout = queue_timeout(self.limits.queue_timeout, self.record.actual.last_load)
        try:
            return await self.line.join(request, timeout)
        except (asyncio.TimeoutError, TimeoutError):
            raise self.unavailable(f"no engine was free within {timeout:.0f} s") from None

    def _may_wait(self) -> None:
        """RequestError unless waiting makes sense and there is a place in the line."""
        actual = self.record.actual
        if actual.state in NO_MODEL:
            raise self.unavailable(NO_MODEL[actual.state] + (f": {actual.why}" if actual.why else ""))
        if len(self.line) < self.limits.queue:
            return
        self.counts.rejected()
        if self.engine is None:
            raise self.unavailable(f"{len(self.line)} requests wait for the model already")
        details = {"retry_after": 1}
        raise RequestError(f"{len(self.line)} requests wait already", status=429, code="queue_full", details=details)

    def unavailable(self, message: str) -> RequestError:
        """503 with the state, the load's progress, and when to come again."""
        expected = self.record.actual.last_load or UNKNOWN_LOAD
        details = {
            "state": self.record.actual.state, "progress": self.progress or None,
            "retry_after": retry_after(expected, now() - self.waits_since),
        }  # fmt: skip
        hint = f"llmctl status {self.record.folder.port}"
        return RequestError(message, status=503, code="unavailable", details=details, hint=hint)

    def serve_with(self, engine: EngineProcess) -> None:
        """New requests, and those that wait, go to `engine` from now on."""
        self.engine = engine
        engine.on_room = self._dispatch
        self._dispatch()

    def _dispatch(self) -> None:
        self.last_activity = now()  # a request has ended
        if self.engine:
            self.line.serve(self.engine.has_room, self.engine.begin)

    def dismiss(self, error: LlmctlError) -> None:
        """Nobody waits any longer."""
        self.line.dismiss(error)


def names(spec: SlotSpec) -> tuple[str, ...]:
    """What the model is called, its id first."""
    return (spec.model, *spec.names)


def now() -> float:
    """The event loop's clock, seconds."""
    return asyncio.get_running_loop().time()
