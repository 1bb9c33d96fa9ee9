"""A request whose model is being loaded: kept until then, told how far it is, and sent away when that takes too long.

Who streams is told after TOLD seconds, in comments that no client shows, or as the model's thoughts where it asks so;
who does not is answered 503 after PATIENCE seconds, with how far it is and when to come back. The load goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmctl.errors import RequestError
from llmctl.gateway.front import Front, Work
from llmctl.gateway.loading import Load
from llmctl.gateway.shapes import Shape

TOLD, EVERY = 10.0, 5.0
PATIENCE = 60.0
LONGEST = 3600.0
HEAD = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
Then = Callable[[bool], Work]
"""Sends the request on; True: its answer has begun already."""


class Waiting:
    """What answers one request until its model is there."""

    def __init__(self, front: Front, load: Load, shape: Shape, streams: bool, then: Then, done: Callable[[int], None]):
        self.front, self.load, self.shape = front, load, shape
        self._then, self._done, self._streams = then, done, streams and shape.comment is not None
        self._begun = self._over = False
        loop = asyncio.get_running_loop()
        patience = LONGEST if self._streams else PATIENCE
        self._timer = loop.call_later(TOLD, self._tell) if self._streams else None
        self._end = loop.call_later(patience, self._too_long)
        load.task.add_done_callback(self._loaded)

    def _tell(self) -> None:
        if not self._begun:
            self._begun = True
            self.front.head(200, HEAD, None)
        assert self.shape.comment
        self.front.data(self.shape.comment(self.load.words()))
        self.front.flush()
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._tell)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        if self._over:
            return
        self._stop()
        error = None if task.cancelled() else task.exception()
        if error is None and not task.cancelled():
            self.front.work = self._then(self._begun)
            return
        self._fail(error if isinstance(error, RequestError) else self._unavailable("the load failed"))

    def _too_long(self) -> None:
        self._stop()
        self._fail(self._unavailable(self.load.words()))

    def _unavailable(self, why: str) -> RequestError:
        details = {"retry_after": self.load.eta or 10.0, "state": "starting", "progress": self.load.progress}
        return RequestError(why, status=503, code="loading", details=details)

    def _fail(self, error: RequestError) -> None:
        self._done(error.status)
        if self._begun:
            self.front.data(self.shape.broken(b"\n\n", error))
            self.front.end()
        else:
            self.front.error(error, self.shape.error)

    def _stop(self) -> None:
        self._over = True
        self._end.cancel()
        if self._timer:
            self._timer.cancel()

    # ── its client ──────────────────────────────────────────────────────────────────────────────────────────────────

    def gone(self) -> None:
        if not self._over:
            self._stop()
            self._done(499)

    def stop(self, error: RequestError) -> None:
        if not self._over:
            self._stop()
            self._fail(error)

    def shutdown(self) -> None:
        """It ends by itself."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
