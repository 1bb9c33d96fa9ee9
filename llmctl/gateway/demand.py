"""What a gateway does for models that are on demand: has them loaded, shares their room out by turns, and ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from llmctl.domain import READY, OnDemand
from llmctl.errors import Busy, LlmctlError
from llmctl.gateway.loading import Load, Loads, OnEvent, failure
from llmctl.gateway.registry import Handle, Replica
from llmctl.gateway.replicas import COMING, Live, Replicas
from llmctl.gateway.stays import FOREVER, Stays
from llmctl.gateway.turns import Turns
from llmctl.slots.room import REST

AGAIN = 5.0
"""Seconds after which an unload that failed is tried again."""


class Command(Protocol):
    """What loads and unloads (command.Command)."""

    async def load(self, replica: Replica, on_event: OnEvent) -> None: ...
    async def unload(self, replica: Replica, unused: float) -> None: ...


class Demand:
    """`handles` are those of the registry now, `watch` looks at a replica and notes its state in it."""

    def __init__(
        self, home: Path, replicas: Replicas, command: Command, times: OnDemand,
        watch: Callable[[Live], Awaitable[Any]], handles: Callable[[], list[Handle]], note: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.times, self._replicas, self._command = times, replicas, command
        self._watch, self._handles, self._note = watch, handles, note
        self._now = asyncio.get_running_loop().time
        self._turns = Turns(times.turn, times.requests)
        self.loads = Loads(self._load, self._look, self._turns, self._rests, times.longest, self._now)
        self.stays = Stays(home)
        self._looks: set[asyncio.Future[Any]] = set()
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}  # an unload failed

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────

    def missing(self, handle: Handle) -> Load | None:
        """The load that a request for `handle` has to wait for; None where somebody can answer it now. RequestError
        where it failed a moment ago."""
        if not handle.on_demand:
            return None
        lives, now = self._lives(handle), self._now()
        for live in lives:
            where = live.replica.where
            if live.load.warm and not self.loads.going(where) and self._turns.may(where, now):
                self._turns.sent(where)
                return None
        able = [live for live in lives if live.replica.on_demand]
        for live in able:
            if load := self.loads.going(live.replica.where):
                return load
        if any(live.state in COMING for live in lives) or not able:
            return None
        return self.loads.begin(min(able, key=self._rank).replica)

    def _rank(self, live: Live) -> tuple[float, bool, bool, int]:
        """The least is loaded first: those whose load failed lately come last, the latest of them after the others."""
        failed = self.loads.failed(live.replica.where) or 0.0
        return failed, live.load.warm, live.standing.resting, live.load.tokens

    def another(self, handle: Handle) -> bool:
        """Whether one that may be loaded for it has not failed lately."""
        able = [live.replica.where for live in self._lives(handle) if live.replica.on_demand]
        return any(self.loads.failed(where) is None for where in able)

    def _lives(self, handle: Handle) -> list[Live]:
        return [self._replicas.live[one.where] for one in handle.replicas if one.where in self._replicas.live]

    def there(self, handle: Handle) -> bool:
        """Whether somebody can answer for it without a load."""
        return any(live.load.warm or live.state in COMING for live in self._lives(handle))

    def free(self, handle: Handle) -> None:
        """End its models once they have nothing to do."""
        for live in self._lives(handle):
            self.ended(live.replica.where, 0.0)

    def ended(self, where: str | None, keep: float | None) -> None:
        """A request to that slot has ended; `keep` is its keep_alive."""
        live = self._replicas.live.get(where or "")
        if live and live.replica.on_demand:
            self.stays.said(live.replica.where, keep)

    # ── slots ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self, replica: Replica) -> str:
        live = self._replicas.live.get(replica.where)
        if live is None:
            raise failure(f"{replica.where} is no slot of a handle any more", "llmctl handles list")
        await self._watch(live)
        return live.state

    async def _load(self, replica: Replica, on_event: OnEvent) -> None:
        self._note(f"{replica.model} is wanted on {replica.where}")
        stage = ""

        def told(event: Any) -> None:
            """Another stage: somebody may have made room, and is not to be asked any more."""
            nonlocal stage
            on_event(event)
            if event.get("event") == "stage" and stage != event.get("stage"):
                stage = str(event.get("stage"))
                self._look_beside(replica)

        try:
            await self._command.load(replica, told)
        except LlmctlError as error:
            self._note(f"{replica.model} is not loaded on {replica.where}: {error.message}")
            raise
        finally:
            self._look_beside(replica)
        if live := self._replicas.live.get(replica.where):
            live.standing = live.standing.answered()

    def _look_beside(self, replica: Replica) -> None:
        """Look at the others on demand on its host."""
        for live in self._replicas.live.values():
            other = live.replica
            if other.on_demand and other.host == replica.host and other.where != replica.where:
                look = asyncio.ensure_future(self._watch(live))
                self._looks.add(look)
                look.add_done_callback(self._looks.discard)

    def _rests(self, where: str) -> bool:
        live = self._replicas.live.get(where)
        return live is None or (not live.load.requests and self._now() - live.rested >= REST)

    def tick(self) -> None:
        """End the models whose time is over."""
        now = self._now()
        for where, live in self._replicas.live.items():
            ending = self._ending.get(where)
            if live.state != READY or live.load.requests or (ending and not ending.done()) or self.loads.going(where):
                continue
            keep = self._keeps(live.replica)
            if keep is not None and now - live.rested >= keep and now >= self._not_before.get(where, 0.0):
                live.load.warm = False
                self._ending[where] = asyncio.ensure_future(self._unload(live, keep))
        self.stays.save()

    def _keeps(self, replica: Replica) -> float | None:
        """Seconds that it stays after its last request; None: until its room is needed."""
        if not replica.on_demand or replica.pinned:
            return None
        mine = [handle for handle in self._handles() if any(one.where == replica.where for one in handle.replicas)]
        usual = max((handle.keep_alive for handle in mine if handle.keep_alive is not None), default=None)
        keep = self.stays.of(replica.where, usual)
        return None if keep == FOREVER else keep

    async def _unload(self, live: Live, keep: float) -> None:
        where = live.replica.where
        self._note(f"{live.replica.model} is unloaded from {where}: no request for {keep:g} s")
        try:
            await self._command.unload(live.replica, keep)
        except LlmctlError as error:
            self._not_before[where] = self._now() + AGAIN
            if not isinstance(error, Busy):
                self._note(f"{live.replica.model} is not unloaded from {where}: {error.message}")
        await self._watch(live)

    async def close(self) -> None:
        """End what goes on; what the slots do of it goes on."""
        self.stays.save()
        await self.loads.close()
        left = [*self._ending.values(), *self._looks]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
