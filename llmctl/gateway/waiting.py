"""A request whose model is being loaded: kept until then, told how far it is, and sent away when that takes too long.

Who streams is told after a while how far it is. Who does not is answered 503 in the end, with how far it is and when to
come back. The load goes on in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmctl.domain import OnDemand
from llmctl.errors import RequestError
from llmctl.gateway.front import Front, Work
from llmctl.gateway.loading import Load, ends
from llmctl.gateway.progress import Progress
from llmctl.gateway.shapes import Shape

ENDING = 15.0
"""Seconds that it waits still when the gateway is to end: less than a drain takes."""
Then = Callable[[RequestError | None, bool], Work | None]
"""Goes on with the request after its load, or after the error of that; True: its answer has begun already."""


class Waiting:
    """What answers one request until its model is there."""

    def __init__(
        self, front: Front, load: Load, shape: Shape, progress: Progress | None, times: OnDemand, then: Then,
        done: Callable[[int], None], begun: bool = False,
    ) -> None:  # fmt: skip
        """`begun`: the head of its stream was sent already."""
        self.front, self.load, self.shape, self.progress, self.times = front, load, shape, progress, times
        self._then, self._done = then, done
        self._begun, self._over = begun, False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(times.told, self._tell) if progress else None
        self._end = self._loop.call_later(times.longest if progress else times.patience, self._too_long)
        load.joined()
        load.task.add_done_callback(self._loaded)

    def _tell(self) -> None:
        assert self.progress
        if not self._begun:
            self._begun = True
            self.front.head(200, [(b"content-type", self.progress.kind), (b"cache-control", b"no-store")], None)
        self.front.data(self.progress.said(self.load.words()))
        self.front.flush()
        self._timer = self._loop.call_later(self.times.every, self._tell)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        if self._over:
            return
        self._stop()
        error = ends() if task.cancelled() else None
        if error is None and (found := task.exception()):
            error = found if isinstance(found, RequestError) else _broken(found)
        work = self._then(error, self._begun)
        if work:
            self.front.work = work

    def _too_long(self) -> None:
        self._stop()
        load = self.load
        details = {"retry_after": load.eta, "state": "loading", "progress": load.progress, "eta": load.eta}
        self._fail(RequestError(load.words(), status=503, code="loading", details=details))

    def _fail(self, error: RequestError) -> None:
        self._done(error.status)
        tell(self.front, self.shape, error, self._begun)

    def _stop(self) -> None:
        self._over = True
        self.load.parted()
        self._end.cancel()
        if self._timer:
            self._timer.cancel()

    # ── its client, and its server ──────────────────────────────────────────────────────────────────────────────────

    def gone(self) -> None:
        if not self._over:
            self._stop()
            self._done(499)

    def stop(self, error: RequestError) -> None:
        if not self._over:
            self._stop()
            self._fail(error)

    def shutdown(self) -> None:
        if not self._over:
            self._end.cancel()
            self._end = self._loop.call_later(min(ENDING, self.times.patience), self._too_long)

    def pause(self) -> None: ...
    def resume(self) -> None: ...


def tell(front: Front, shape: Shape, error: RequestError, begun: bool) -> None:
    """End a request with an error: as its answer, or where that has begun in its stream."""
    if begun:
        front.data(shape.broken(b"", error))
        front.end()
    else:
        front.error(error, shape.error)


def _broken(found: BaseException) -> RequestError:
    return RequestError(f"the load failed: {found!r}", status=500, code="load_failed")
