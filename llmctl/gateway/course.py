"""The course of a request for models that may have to be loaded first: it waits, is sent on, and at a failure goes to
another replica of the handle, then to its next fallback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from llmctl.errors import RequestError
from llmctl.gateway.demand import Demand
from llmctl.gateway.front import Front, Work
from llmctl.gateway.loading import Load
from llmctl.gateway.progress import Progress
from llmctl.gateway.registry import Handle
from llmctl.gateway.shapes import Shape
from llmctl.gateway.waiting import Waiting, tell

TRIES = 5
"""Times that one request waits for a load: its model may go between two looks."""
Again = Callable[[bool], Work | None]
"""What else answers a request that nobody could answer; True: its answer has begun already."""


class Answered(Protocol):
    """What was sent to a replica, and has ended."""

    @property
    def replica(self) -> str | None: ...


class Course:
    """One request. `send(handles, begun, again, done)` has the replicas of these handles answer it."""

    def __init__(
        self, front: Front, shape: Shape, chain: Sequence[Handle], demand: Demand, progress: Progress | None,
        keep: float | None, send: Callable[..., Work], done: Callable[[Any, int], None],
    ) -> None:  # fmt: skip
        """`keep` is its keep_alive."""
        self._front, self._shape, self._chain, self._demand = front, shape, chain, demand
        self._progress, self._keep, self._send, self._done = progress, keep, send, done
        self._left = TRIES

    def go(self, begun: bool = False) -> Work | None:
        """What answers it now; None where that was an error."""
        try:
            load = self._demand.missing(self._chain[0])
        except RequestError as error:
            return self._next(error, begun)
        if load and not self._left:
            return self._next(RequestError("its model comes and goes", status=503, code="unavailable"), begun)
        return self._wait(load, begun) if load else self._send(self._chain, begun, self._again, self._ended)

    def _wait(self, load: Load, begun: bool) -> Work | None:
        self._left -= 1
        times, done = self._demand.times, lambda status: self._done(None, status)
        return Waiting(self._front, load, self._shape, self._progress, times, self._after, done, begun)

    def _after(self, error: RequestError | None, begun: bool) -> Work | None:
        """The load has ended: go on, if it failed with another replica of the handle."""
        if error is None or (self._left and self._demand.another(self._chain[0])):
            return self.go(begun)
        return self._next(error, begun)

    def _next(self, error: RequestError, begun: bool) -> Work | None:
        """Nobody answers for this handle: go on with the next one."""
        if len(self._chain) > 1:
            self._chain = self._chain[1:]
            return self.go(begun)
        self._done(None, error.status)
        tell(self._front, self._shape, error, begun)
        return None

    def _again(self, begun: bool) -> Work | None:
        """None of the replicas could answer: wait for one whose model has gone in the meantime."""
        for at, handle in enumerate(self._chain if self._left else ()):
            try:
                load = self._demand.missing(handle)
            except RequestError:
                continue
            if load:
                self._chain = self._chain[at:]
                return self._wait(load, begun)
        return None

    def _ended(self, answered: Answered | None, status: int) -> None:
        self._demand.ended(answered.replica if answered else None, self._keep)
        self._done(answered, status)
