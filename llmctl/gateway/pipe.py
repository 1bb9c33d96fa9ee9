"""A WebSocket on its way: behind the handshake bytes go both ways as they come, and one end ends the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from llmctl.errors import LlmctlError, RequestError
from llmctl.gateway.front import Front, Request
from llmctl.gateway.relay import OURS, Way
from llmctl.gateway.shapes import OPENAI
from llmctl.gateway.upstream import Upstream

SOCKETS = ("/", "/ws", "/v1/chat/completions")
"""Where a slot has WebSockets."""
KEPT = (b"connection", b"upgrade")
"""Of one connection only, and both ends of the pipe are one."""


class Pipe:
    """What answers a handshake: the work of its client's connection."""

    def __init__(self, front: Front, request: Request, ways: Iterator[Way], done: Callable[[int], None]) -> None:
        self.front, self.request, self._ways, self._done = front, request, ways, done
        self._way: Way | None = None
        self._upstream: Upstream | None = None
        self._over = False
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        why = "no replica is up"
        for way in self._ways:
            way.took(self)
            try:
                upstream = await way.pool.fresh()
            except LlmctlError as error:
                way.ended(whole=False, why=error.message)
                why = error.message
                continue
            self._way = way
            if self._over:
                upstream.cut()
                self._end(499)
                return
            self._join(upstream)
            return
        self._over = True
        self._done(503)
        details = {"retry_after": 2}
        self.front.error(RequestError(why, status=503, code="unavailable", details=details), OPENAI.error)

    def _join(self, upstream: Upstream) -> None:
        assert self._way
        self._upstream = upstream
        request = self.request
        lines = [b"GET " + request.target + b" HTTP/1.1", self._way.head]
        lines += [name + b": " + value for name, value in request.headers if name not in OURS or name in KEPT]
        upstream.splice(self.front.pass_on, self._lost)
        upstream.transport.write(b"\r\n".join([*lines, b"", b""]))
        self.front.splice(upstream.transport.write)

    def _lost(self) -> None:
        """The slot has ended it."""
        self._end(101)
        self.front.close()

    def _end(self, status: int) -> None:
        if self._way:
            self._way.ended(whole=True)
            self._way = None
            self._done(status)

    def move(self, why: str) -> None:
        """What is in a pipe cannot be sent twice."""

    # ── its client ──────────────────────────────────────────────────────────────────────────────────────────────────

    def gone(self) -> None:
        self._over = True
        if self._upstream:
            self._upstream.cut()
            self._end(101)

    def pause(self) -> None:
        if self._upstream:
            self._upstream.transport.pause_reading()

    def resume(self) -> None:
        if self._upstream and not self._upstream.closed:
            self._upstream.transport.resume_reading()
