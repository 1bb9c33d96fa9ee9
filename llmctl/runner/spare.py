"""A process beside the engine that serves: its libraries imported, its device opened, no model (a warm spare).

Whatever becomes of it, it is no crash of the slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError
from llmctl.runner.engine_process import EngineProcess, python_of
from llmctl.slots.supervisor import spare_delay

ENGINES = ("llamacpp", "torch", "mlx", "openvino", "scripted")


@dataclass(frozen=True)
class Effects:
    """What a spare needs of the world: a process that warms up for a spec, so many bytes for it, and a log."""

    start: Callable[[SlotSpec], Awaitable[EngineProcess]]
    reserve: Callable[[int], str]
    release: Callable[[str | None], None]
    note: Callable[[str], None]


class Spare:
    """At most one process, ready for the next model that wants the engine and the Python it has."""

    def __init__(self, effects: Effects) -> None:
        self.effects = effects
        self._process: EngineProcess | None = None
        self._wanted: SlotSpec | None = None
        self._ended = 0  # spares in a row that went without being asked to
        self._making: asyncio.Task[EngineProcess | None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def want(self, spec: SlotSpec | None) -> None:
        """Keep one for models like that of `spec`, from now on; None: keep none."""
        self._wanted = spec if spec and spec.engine.engine in ENGINES and not spec.engine.spread else None
        if self._process and not self._still_wanted(self._process):
            self._end()
        if self._wanted is None:
            self._ended = 0
            self._later(None)
        elif self._process is None:
            self._make()
        elif self._process.reservation is None:
            try:
                self._process.reservation = self.effects.reserve(self._wanted.spare_bytes)
            except LlmctlError as error:
                self.effects.note(f"no spare: {error.message}")
                self._end()

    def make_way(self, spec: SlotSpec) -> int:
        """A change to `spec` begins: the bytes that the spare will not hold beside it, for it becomes its engine or
        ends."""
        process = self._process
        if process is None:
            return 0
        held = process.resident()
        if self._fits(spec):
            self.effects.release(process.reservation)
            process.reservation = None
        else:
            self._end()
        return held

    def take(self, spec: SlotSpec) -> EngineProcess | None:
        """The process, to be given `spec`; None where there is none that is ready and suits it."""
        if not self._fits(spec):
            return None
        process, self._process, self._ended = self._process, None, 0
        assert process
        self.effects.release(process.reservation)
        process.reservation = None
        return process

    def status(self) -> dict[str, Any]:
        """Of `status`: is there one, and can it be used."""
        if self._process is None:
            return {"spare": None, "spare_pid": None}
        return {"spare": "ready" if self._process.warmed else "starting", "spare_pid": self._process.child.pid}

    async def close(self) -> None:
        """End it, and return when it is gone."""
        process = self._process
        self.want(None)
        if self._making:
            process = await self._making or process
        if process:
            await process.gone

    def _fits(self, spec: SlotSpec) -> bool:
        process = self._process
        return bool(process and process.warmed and not process.gone.done() and suits(process, spec))

    def _still_wanted(self, process: EngineProcess) -> bool:
        return self._wanted is not None and suits(process, self._wanted)

    def _later(self, delay: float | None) -> None:
        """Make the next one after `delay` seconds; None: not any more."""
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay, self._make) if delay is not None else None

    def _make(self) -> None:
        self._later(None)
        if not self._making or self._making.done():
            self._making = asyncio.get_running_loop().create_task(self._made())

    async def _made(self) -> EngineProcess | None:
        """The process that it started, whether it keeps it or not."""
        spec, reservation = self._wanted, None
        if spec is None or self._process:
            return None
        try:
            reservation = self.effects.reserve(spec.spare_bytes)
            process = await self.effects.start(spec)
        except LlmctlError as error:
            self.effects.release(reservation)
            self.effects.note(f"no spare: {error.message}")
            return None
        process.reservation = reservation
        self._process = process
        process.gone.add_done_callback(lambda _: self._gone(process))
        if not self._still_wanted(process):
            self._end()
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            self.effects.release(process.reservation)
            process.reservation = None
            process.kill()

    def _gone(self, process: EngineProcess) -> None:
        if process is not self._process:
            return
        self._end()
        self._ended += 1
        delay = spare_delay(self._ended)
        self.effects.note(f"the spare {process.gone.result()}; the next one comes in {delay:.0f} s")
        self._later(delay)


def suits(process: EngineProcess, spec: SlotSpec) -> bool:
    """It runs in the environment that `spec` wants, for the engine that it wants, and on one host."""
    try:
        same = (process.spec.engine.engine, process.runs["python"]) == (spec.engine.engine, python_of(spec))
    except LlmctlError:
        return False
    return same and not spec.engine.spread
