"""Loads that requests wait for: one a slot, which all who ask for it join; one without room waits for its turn."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from llmctl.domain import READY
from llmctl.errors import Busy, RequestError
from llmctl.gateway.registry import Replica
from llmctl.gateway.replicas import COMING
from llmctl.gateway.turns import Turns

AGAIN = 5.0
"""Seconds after a failure within which the same load is not tried again: its error is told instead."""
LATELY = 60.0
"""Seconds after a failure within which others that can answer the same are loaded before that one."""
ABANDONED = 30.0
"""Seconds that a load waits for room for nobody."""
LOOK, FIRST_PAUSE, PAUSE = 0.1, 1.0, 5.0
"""Seconds between two looks at who has the room, and between two tries, at first and at most."""
USUAL = 10.0
"""What a load is taken for that nobody has seen yet."""
TURN = "waiting for its turn"
OnEvent = Callable[[Mapping[str, Any]], None]
Start = Callable[[Replica, OnEvent], Awaitable[None]]
"""Loads what a slot stands for. RequestError: it does not; Busy: it waits for the room of `details["where"]`."""
Look = Callable[[Replica], Awaitable[str]]
"""The state of a slot, asked now."""


@dataclass(eq=False)
class Load:
    """One that goes on, or has ended. `done` of `total` is how far its `stage` is, `usual` seconds of the last one."""

    replica: Replica
    began: float
    usual: float
    clock: Callable[[], float]
    stage: str = "start"
    done: float = 0.0
    total: float = 0.0
    waiters: int = 0
    left: float = 0.0  # when the last who waited for it went
    task: asyncio.Task[None] = field(init=False, repr=False)
    _eta: float | None = None

    def told(self, event: Mapping[str, Any]) -> None:
        """After an event of its progress."""
        if event.get("event") == "stage":
            self.stage = str(event.get("stage")).removeprefix(f"{self.replica.host}: ")
            self.done, self.total = (_number(event.get(key)) or 0.0 for key in ("done", "total"))
            self._eta = _number(event.get("eta"))

    def joined(self) -> None:
        self.waiters += 1

    def parted(self) -> None:
        self.waiters -= 1
        self.left = self.clock()

    @property
    def progress(self) -> float | None:
        return round(self.done / self.total, 3) if self.total else None

    @property
    def eta(self) -> float:
        """Seconds that it takes still, as far as that can be told."""
        left = self._eta if self._eta is not None else self.began + self.usual - self.clock()
        return float(max(1, math.ceil(left)))

    def words(self) -> str:
        """For people: loading qwen2.5-32b: weights 45 %, 12 s left."""
        share = f" {100 * self.done / self.total:.0f} %" if self.total else ""
        return f"loading {self.replica.model}: {self.stage}{share}, {self.eta:.0f} s left"


class Loads:
    """The loads of one gateway. `rests(where)` tells whether a slot's model may go; a load takes `longest` seconds."""

    def __init__(
        self, start: Start, look: Look, turns: Turns, rests: Callable[[str], bool], longest: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._start, self._look, self._turns, self._rests, self._longest = start, look, turns, rests, longest
        self._clock = clock
        self._loads: dict[str, Load] = {}
        self._failed: dict[str, tuple[float, RequestError]] = {}
        self._took: dict[str, float] = {}
        self._closing = False

    def going(self, where: str) -> Load | None:
        """The load of that slot, while it goes on."""
        load = self._loads.get(where)
        return load if load and not load.task.done() else None

    def failed(self, where: str) -> float | None:
        """When the load of that slot failed; None where it did not lately."""
        failed = self._failed.get(where)
        return failed[0] if failed and self._clock() - failed[0] < LATELY else None

    def begin(self, replica: Replica) -> Load:
        """A load of this slot, which has none that goes on; RequestError where one failed a moment ago, or all end."""
        if self._closing:
            raise ends()
        now, where = self._clock(), replica.where
        if (failed := self._failed.get(where)) and now - failed[0] < AGAIN:
            raise copy(failed[1])  # raised again and again, one would keep all requests that it went through
        self._loads[where] = load = Load(replica, now, self._took.get(where, USUAL), self._clock, left=now)
        load.task = asyncio.get_running_loop().create_task(self._run(load))
        return load

    async def _run(self, load: Load) -> None:
        where = load.replica.where
        try:
            await asyncio.wait_for(self._until_there(load), self._longest)
        except (asyncio.TimeoutError, TimeoutError):
            error = failure(
                f"{load.replica.model} was not loaded within {self._longest:.0f} s", f"llmctl status {where}"
            )
            self._failed[where] = self._clock(), error
            raise error from None
        except RequestError as error:
            self._failed[where] = self._clock(), error
            raise
        finally:
            self._turns.waits_no_more(where)
        self._failed.pop(where, None)

    async def _until_there(self, load: Load) -> None:
        replica, pause = load.replica, FIRST_PAUSE
        for before in self._turns.behind(replica.where):  # whose turn it is now
            if going := self.going(before):
                load.stage = TURN
                await asyncio.wait([going.task])
        while await self._look(replica) not in (READY, *COMING):
            began = self._clock()
            try:
                await self._start(replica, load.told)
            except Busy as error:
                load.stage, load.done, load.total = TURN, 0.0, 0.0
                await self._room(load, error.details.get("where"), pause)
                pause = min(PAUSE, 2 * pause)
                continue
            self._took[replica.where] = self._clock() - began
            if (state := await self._look(replica)) not in (READY, *COMING):
                raise failure(
                    f"{replica.model} is {state or 'gone'} on {replica.where}", f"llmctl status {replica.where}"
                )
            return

    async def _room(self, load: Load, where: str | None, pause: float) -> None:
        """Return when there may be some: a `pause` is over, and who has it rests as far as this gateway sees."""
        began = self._clock()
        if where:
            self._turns.waits(load.replica.where, where, began)
        while self._clock() - began < pause or not (where is None or self._rests(where)):
            if not load.waiters and self._clock() - load.left > ABANDONED:
                raise failure(f"there was no room for {load.replica.model}, and nobody waits for it any longer")
            await asyncio.sleep(LOOK)

    def rows(self) -> list[dict[str, Any]]:
        """Those that go on, for `gateway status`."""
        return [
            {"where": load.replica.where, "model": load.replica.model, "stage": load.stage, "progress": load.progress,
             "waiting": load.waiters}
            for load in self._loads.values() if not load.task.done()
        ]  # fmt: skip

    async def close(self) -> None:
        """End those that go on, and begin no other."""
        self._closing = True
        tasks = [load.task for load in self._loads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ends() -> RequestError:
    """What those are told who wait for a load when the gateway ends."""
    return RequestError("the gateway ends", status=503, code="unavailable")


def failure(why: str, hint: str | None = None) -> RequestError:
    """What those are told who wait for a load that failed."""
    return RequestError(why, status=503, code="load_failed", hint=hint, details={"retry_after": AGAIN})


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
