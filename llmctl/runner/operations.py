"""One change of a slot at a time: operators' changes, and the slot's own work, which gives way to them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from llmctl.errors import Busy

FALL_ASLEEP = "idle unload"


@dataclass
class Operation:
    """A change in progress: who does what since when. `task` is set for the slot's own work."""

    verb: str
    owner: str
    since: float
    task: asyncio.Task[Any] | None = None

    @property
    def own(self) -> bool:
        return self.owner == "llmctl"


class Operations:
    """Who changes the slot now. `after` is called whenever an operation is over and no other has begun."""

    def __init__(self, port: int, note: Callable[[str], None], after: Callable[[], None]) -> None:
        self.port, self.note, self.after = port, note, after
        self.current: Operation | None = None

    @contextlib.asynccontextmanager
    async def changing(self, verb: str, owner: str, lock_wait: float = 0.0) -> AsyncIterator[None]:
        """An operator's turn: ends the slot's own work; waits `lock_wait` seconds for another operator, else Busy."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + lock_wait
        while self.current and not self.current.own:
            if loop.time() >= deadline:
                raise self.busy(self.current)
            await asyncio.sleep(0.02)
        own, self.current = self.current, Operation(verb, owner, time.time())
        self.note(f"{verb} by {owner}")
        try:
            if own and own.task:
                if own.verb != FALL_ASLEEP:  # that one is short, and has an engine in its hands
                    own.task.cancel()
                await asyncio.wait([own.task])
            yield
        finally:
            self.current = None
            self.after()

    def claim(self, verb: str, owner: str) -> None:
        """An operator's turn that ends with the program image, or with `release`; Busy when anything is going on."""
        if self.current:
            raise self.busy(self.current)
        self.current = Operation(verb, owner, time.time())

    def release(self) -> None:
        self.current = None
        self.after()

    def start_own(self, verb: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run the slot's own work, unless an operation is on already (`after` will see to the rest)."""
        if self.current:
            return
        operation = self.current = Operation(verb, "llmctl", time.time())

        async def run() -> None:
            try:
                await work()
            finally:
                if self.current is operation:
                    self.current = None
                    self.after()

        operation.task = asyncio.get_running_loop().create_task(run())

    async def close(self) -> None:
        """End the slot's own work, if any, for good."""
        if self.current and self.current.task:
            task, self.current.task = self.current.task, None
            self.after = lambda: None
            task.cancel()
            await asyncio.wait([task])

    def busy(self, operation: Operation) -> Busy:
        """What a loser is told."""
        return Busy(
            f"{operation.owner} is doing a {operation.verb} on port {self.port}, since "
            f"{time.time() - operation.since:.0f} s",
            hint="wait for it with --lock-wait 60",
            port=self.port,
            details={"owner": operation.owner, "verb": operation.verb},
        )
