"""An engine that keeps its process while its slot sleeps (domain.REST), and wakes without a load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmctl import domain
from llmctl.errors import LlmctlError
from llmctl.runner.engine_process import EngineProcess


class Resting:
    """At most one engine. `release` gives a reservation back, `note` writes to the slot's log."""

    def __init__(self, release: Callable[[str | None], None], note: Callable[[str], None]) -> None:
        self._release, self._note = release, note
        self._engine: EngineProcess | None = None

    async def keep(self, engine: EngineProcess) -> bool:
        """Let an engine without requests rest and give its memory back; False when it does not."""
        try:
            await engine.turn(domain.REST)
        except LlmctlError as error:
            self._note(f"{engine.spec.model} does not rest, so it is ended: {error.message}")
            return False
        self._release(engine.reservation)
        engine.reservation, self._engine = None, engine
        return True

    async def wake(self, reservation: str | None) -> EngineProcess | None:
        """The engine that rested, with its `reservation`; None when none did, or when it does not wake."""
        engine, self._engine = self._engine, None
        if engine is None or engine.gone.done():
            return None
        try:
            await engine.turn(domain.WAKE)
        except BaseException as error:
            engine.kill()
            await asyncio.shield(engine.gone)
            if not isinstance(error, LlmctlError):
                self._release(reservation)
                raise
            self._note(f"{engine.spec.model} does not wake, so it is started anew: {error.message}")
            return None
        engine.reservation = reservation
        return engine

    async def end(self) -> None:
        """End the engine that rests, if any; who wakes the slot then waits for a load."""
        engine, self._engine = self._engine, None
        if engine:
            await engine.stop()


def rests(engine: EngineProcess) -> bool:
    """Whether it says that it can."""
    return engine.identity is not None and domain.REST in engine.identity.capabilities
