"""A WebSocket on its way: behind the handshake bytes go both ways as they come, and one end ends the other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator

from llmctl.errors import Busy, LlmctlError, RequestError
from llmctl.gateway.balance import BYTES
from llmctl.gateway.frames import Frames, close
from llmctl.gateway.front import Front
from llmctl.gateway.relay import BUSY, KEY_REFUSED, OURS, REFUSES_KEY, SILENT, Way
from llmctl.gateway.request import Request
from llmctl.gateway.shapes import OPENAI
from llmctl.gateway.upstream import HEAD, Upstream
from llmctl.gateway.usage import Usage

SOCKETS = ("/", "/ws", "/v1/chat/completions")
"""Where a slot has WebSockets."""
KEPT = (b"connection", b"upgrade")
"""Of one connection only, and both ends of the pipe are one."""
QUIET = 1.0
"""Seconds after the slot's last word from which on nothing is taken to be under way."""
POLICY, AWAY = 1008, 1012
"""Codes of a close (RFC 6455, section 7.4): it may not go on; the service restarts."""
HTTP = b"HTTP/1."
STATUS = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)[ \r]")
TAKEN = 101
"""The status of a handshake that the slot takes."""


class Pipe:
    """What answers a handshake: the work of its client's connection."""

    def __init__(self, front: Front, request: Request, ways: Iterator[Way], done: Callable[[Pipe, int], None]) -> None:
        self.front, self.request, self._ways, self._done = front, request, ways, done
        self._way: Way | None = None
        self._next: Way | None = None
        self._head = b""  # of the slot's answer, as long as that is not whole
        self._status = 0  # of the answer that the client has
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._frames, self._asked = Frames(), 0
        self._over = False
        self._heard = self._spoke = 0.0  # the last byte of the slot, and of the client
        self.replica: str | None = None
        self.retries = 0
        self.began_at = 0.0  # the slot's answer to the handshake

    def start(self) -> Pipe:
        self._try("no replica is up")
        return self

    def _try(self, why: str) -> None:
        """Ask the next replica; `why` there is no answer yet."""
        self.retries += self.replica is not None
        self._way = way = self._next or next(self._ways, None)
        self._next, self._head = None, b""
        if way is None:
            self._over = True
            self._done(self, 503)
            error = RequestError(why, status=503, code="unavailable", details={"retry_after": 2})
            self.front.error(error, OPENAI.error)
            return
        self.replica = way.where
        way.took(self)
        self._connecting = self._loop.create_task(self._connect(way))

    async def _connect(self, way: Way) -> None:
        try:
            upstream = await way.pool.fresh()
        except Busy as error:
            self._left(whole=True)
            self._try(f"the replica: {error.message}")
            return
        except LlmctlError as error:
            self._failed(error.message)
            return
        except Exception as error:  # its client must hear of it, and another one may do better
            self._failed(repr(error))
            return
        self._upstream, self._heard = upstream, self._loop.time()
        lines = [b"GET " + self.request.target + b" HTTP/1.1", way.head]
        lines += [name + b": " + value for name, value in self.request.headers if name not in OURS or name in KEPT]
        upstream.splice(self._said, self._lost, self._slow)
        upstream.transport.write(b"\r\n".join([*lines, b"", b""]))

    def _failed(self, why: str) -> None:
        """Before anything came of it."""
        self._left(whole=False, why=why)
        self._try(f"the replica failed: {why}")

    def _said(self, data: bytes) -> None:
        """From the slot: the answer to the handshake, then frames."""
        self._heard = self._loop.time()
        if not self.began_at:
            self._head += data
            if b"\r\n\r\n" in self._head:
                self._answered()
            elif len(self._head) > HEAD:
                self._drop("the head of its answer has no end", failure=True)
            elif self._head[: len(HTTP)] != HTTP[: len(self._head)]:
                self._drop("its answer is not HTTP", failure=True)
            return
        if self._status == TAKEN:
            self._frames.feed(data)
        self.front.pass_on(data)

    def _answered(self) -> None:
        """The head of the slot's answer is there: take it, or ask another one."""
        assert self._way
        found = STATUS.match(self._head)
        status = int(found[1]) if found else 0
        if not status:
            self._drop("its answer is not HTTP", failure=True)
            return
        if status == KEY_REFUSED:
            self._drop(REFUSES_KEY, failure=True)
            return
        self._way.began(status, 0.0)
        if status in BUSY:
            self._next = next(self._ways, None)
            if self._next:
                self._drop(f"it answers {status}", failure=False)
                return
        self._status, self.began_at = status, self._heard
        said, self._head = self._head, b""
        self.front.splice(self._sent)
        self._said(said)

    def _drop(self, why: str, *, failure: bool) -> None:
        """Take no answer of this replica: ask the next."""
        if self._upstream:
            self._upstream.cut()
            self._upstream = None
        self._left(whole=not failure, why=why if failure else "")
        self._try(f"the replica: {why}")

    def _sent(self, data: bytes) -> None:
        """From the client."""
        self._asked += len(data)
        self._spoke = self._loop.time()
        if self._upstream:
            self._upstream.transport.write(data)

    def _lost(self) -> None:
        """The slot has ended it."""
        self._upstream = None
        if self.began_at:
            self._end(self._status)
            self.front.close()
        else:
            self._failed("it closed the connection")

    def _end(self, status: int) -> None:
        if self._over:
            return
        self._over = True
        if self._connecting:
            self._connecting.cancel()
        if self._upstream:
            self._upstream.cut()
        self._left(whole=True)
        self._done(self, status)

    def _left(self, *, whole: bool, why: str = "") -> None:
        if self._way:
            self._way.ended(whole=whole, why=why)
            self._way = None

    def usage(self, prompt: int) -> Usage:
        """Nobody tells what it cost: a message of the slot is taken for a token, and what it was sent by its bytes."""
        if self._status != TAKEN:
            return Usage()
        return Usage(self._asked // BYTES, self._frames.count, estimated=True)

    def hangs(self, why: str, now: float) -> None:
        """What is in a pipe cannot be sent twice: one that has been silent for long ends."""
        if self._upstream and not self.began_at:
            self._drop(why, failure=True)
        elif self._upstream and now - self._heard > SILENT:
            self._close(AWAY, "the model's server does not answer", self._status)

    def stop(self, error: RequestError) -> None:
        """It may not go on: tell the client why."""
        if self.began_at:
            self._close(POLICY, error.message, error.status)
        elif not self._over:
            self._end(error.status)
            self.front.error(error, OPENAI.error)

    def _close(self, code: int, why: str, status: int) -> None:
        """End it with a frame that says why, where no half frame stands before it."""
        self._end(status)
        if self._frames.between:
            self.front.pass_on(close(code, why))
        self.front.close()

    # ── its client ──────────────────────────────────────────────────────────────────────────────────────────────────

    def gone(self) -> None:
        self._end(self._status or 499)

    def shutdown(self) -> None:
        """End it once the slot has said the last word for QUIET seconds: that has no end of its own."""
        left = self._heard + QUIET - self._loop.time() if self._heard > self._spoke else QUIET
        if self._over:
            return
        if self.began_at and left <= 0:
            self._close(AWAY, "the gateway restarts", self._status)
        else:
            self._loop.call_later(max(0.1, left), self.shutdown)

    def _slow(self, slow: bool) -> None:
        """The slot does not read what the client sends."""
        if slow:
            self.front.transport.pause_reading()
        else:
            self.front.transport.resume_reading()

    def pause(self) -> None:
        if self._upstream:
            self._upstream.transport.pause_reading()

    def resume(self) -> None:
        if self._upstream and not self._upstream.closed:
            self._upstream.transport.resume_reading()
