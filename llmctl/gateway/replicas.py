"""The replicas behind all handles: their connections, what they have to do, and whether they may be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmctl.domain import SLEEPING, STARTING, SWAPPING
from llmctl.gateway import balance
from llmctl.gateway.asked import Asked
from llmctl.gateway.balance import Load
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.gateway.request import Request
from llmctl.gateway.standing import Standing
from llmctl.gateway.upstream import Pool

COMING = (SLEEPING, STARTING, SWAPPING)
"""States of a slot that lets requests wait, and serves them then."""


class Moved(Protocol):
    """A request under way."""

    def hangs(self, why: str, now: float) -> None:
        """Its replica does not answer to probes."""


@dataclass
class Live:
    """One replica as the gateway sees it now. `head` is its part of a request's head: Host, and its key; `state` is
    what its slot said last, `rested` since when it has no request, `waiting` are the requests that have no byte of an
    answer yet, with when they came, and `answering` those that have."""

    replica: Replica
    pool: Pool
    head: bytes
    load: Load
    standing: Standing = Standing()
    state: str = ""
    rested: float = 0.0
    waiting: dict[Moved, float] = field(default_factory=dict)
    answering: set[Moved] = field(default_factory=set)

    def hangs(self, why: str, now: float) -> None:
        """It does not answer to probes: tell all requests that it has."""
        for request in (*self.waiting, *self.answering):
            request.hangs(why, now)


@dataclass
class Way:
    """A replica that may answer one request (relay.Way); `weight` are the tokens that it is taken for."""

    live: Live
    asked: Asked | None
    weight: int
    chain: Sequence[int]
    now: Callable[[], float]
    _moved: Moved | None = None

    @property
    def where(self) -> str:
        return self.live.replica.where

    @property
    def pool(self) -> Pool:
        return self.live.pool

    @property
    def head(self) -> bytes:
        return self.live.head

    def body(self, request: Request) -> bytes:
        """The request's, not a byte changed where this replica knows the model by the name in it."""
        asked, replica = self.asked, self.live.replica
        if asked is None or asked.span is None or asked.model in (replica.model, *replica.names):
            return request.body
        return asked.named(replica.model)

    def took(self, moved: Moved) -> None:
        self.live.load.took(self.weight, self.chain)
        self.live.waiting[moved] = self.now()
        self._moved = moved

    def began(self, status: int, seconds: float) -> None:
        self.asked = None  # it is not asked once more
        if self._moved:
            self.live.waiting.pop(self._moved, None)
            self.live.answering.add(self._moved)
        self.live.standing = self.live.standing.answered()
        if status == 503:
            self._absent()

    def ended(self, *, whole: bool, why: str = "") -> None:
        if self._moved:
            self.live.waiting.pop(self._moved, None)
            self.live.answering.discard(self._moved)
        self.live.load.gave(self.weight)
        self.live.rested = self.now()
        if not whole:
            self.live.standing = self.live.standing.failed(self.now(), why)
            self._absent()

    def _absent(self) -> None:
        """A model that is on demand may have gone since its slot was looked at."""
        if self.live.replica.on_demand:
            self.live.load.warm, self.live.state = False, ""


class Replicas:
    """All of them, by HOST:PORT; `made` makes the Live of a replica."""

    def __init__(self, made: Callable[[Replica], Live], now: Callable[[], float]) -> None:
        self._made, self._now = made, now
        self.live: dict[str, Live] = {}

    def follow(self, registry: Registry) -> None:
        """Have those of the registry, and close the others' connections; what is under way goes on."""
        wanted = {replica.where: replica for handle in registry.handles.values() for replica in handle.replicas}
        for where in [where for where in self.live if where not in wanted]:
            self.live.pop(where).pool.close()
        for where, replica in wanted.items():
            before = self.live.get(where)
            if before is None or before.replica.address != replica.address:
                if before:
                    before.pool.close()
                self.live[where] = self._made(replica)
            else:
                before.replica = replica

    def ways(self, handles: Iterable[Handle], asked: Asked | None) -> Iterator[Way]:
        """Who may answer, in their order: the handle's own replicas, best first, then those of its fallbacks. Those
        that rest come last, in the hope that they are back."""
        text = asked.text if asked else ""
        weight, chain = balance.weight(text, asked.tokens if asked else 1), balance.chain(text)
        resting: list[Way] = []
        seen: set[str] = set()
        for handle in handles:
            lives = {r.where: self.live[r.where] for r in handle.replicas if r.where in self.live}
            for load in balance.ordered([live.load for live in lives.values()], chain):
                if load.key in seen:
                    continue
                seen.add(load.key)
                way = Way(lives[load.key], asked, weight, chain, self._now)
                if way.live.standing.resting:
                    resting.append(way)
                else:
                    yield way
        yield from resting

    def rows(self, registry: Registry) -> list[dict[str, Any]]:
        """What `status` shows of each, with the handles that it answers for."""
        handles: dict[str, list[str]] = {}
        for handle in registry.handles.values():
            for replica in handle.replicas:
                handles.setdefault(replica.where, []).append(handle.name)
        return [
            {
                "where": where, "model": live.replica.model, "warm": live.load.warm, "requests": live.load.requests,
                "tokens": live.load.tokens, "resting": live.standing.resting, "why": live.standing.why or None,
                "on_demand": live.replica.on_demand, "handles": handles.get(where, []),
            }
            for where, live in self.live.items()
        ]  # fmt: skip
