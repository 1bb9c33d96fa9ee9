"""A client's connection: HTTP/1.1 read by llhttp, under the same rules as a slot's edge, and an answer passed through.

No task and no timer of its own: everything is a callback, and `Front.tick` is called for all connections together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import httptools

from llmctl.domain import Limits
from llmctl.errors import RequestError
from llmctl.gateway.request import (
    Request,
    body_too_large,
    check_head,
    head_too_large,
    invalid,
    phrase,
    timed_out,
    unreadable,
    whole,
)
from llmctl.runner import edge
from llmctl.runner.edge import LINGER, SPARE, Drain
from llmctl.runner.exchange import error_headers, error_object
from llmctl.runner.intake import PIECES, SMALLEST_PIECE, Bodies
from llmctl.runner.listener import IDLE_GRACE

Headers = Sequence[tuple[bytes, bytes]]
PIPELINED = 8
"""Requests of a connection that wait for the answer to another; more are left to the kernel."""
BODILESS = (204, 304)


class Work(Protocol):
    """What answers a request, told of its client."""

    def gone(self) -> None:
        """The client went away: nobody reads an answer."""

    def stop(self, error: RequestError) -> None:
        """It may not go on: the client is told why."""

    def shutdown(self) -> None:
        """The server wants to end: what would go on for ever ends as soon as it can."""

    def pause(self) -> None:
        """The client reads more slowly than we write."""

    def resume(self) -> None: ...


class Gate(Protocol):
    """What all connections of a port share. `serve` begins to answer, and never raises."""

    limits: Limits
    bodies: Bodies
    connections: set[Front]
    drain: Drain

    def refused(self, status: int, /) -> None: ...
    def serve(self, front: Front, request: Request) -> Work | None: ...


class Front(asyncio.Protocol):
    """One connection."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.limits = gate, gate.limits
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._request: Request | None = None  # that is being read
        self._pieces: list[bytes] = []
        self._size = self._count = self._head = 0
        self._in_head = self._begins = False
        self._waiting: deque[Request] = deque()
        self._held = 0  # bytes of bodies that are not answered
        self._asked: Request | None = None  # that is being answered
        self._work: Work | None = None
        self._status = 0  # of the answer under way, 0 before it begins
        self._chunked = False
        self._out: list[bytes] = []
        self._last = self.loop.time()  # a byte came, or an answer ended
        self._begun = 0.0  # when the head began
        self._stuck = 0.0  # since when nobody reads
        self._until = 0.0  # a refused client may read its answer
        self._splice: Callable[[bytes], None] | None = None
        self._early = b""  # behind a handshake
        self._unoffered: Request | None = None  # that asked for an upgrade which nobody offers
        self._full = False
        self._paused = False  # more requests wait than we read
        self._expects = False  # a client sends its body once it is told to

    # ── the connection ──────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        gate = self.gate
        if len(gate.connections) >= self.limits.connections + SPARE:
            transport.abort()
            return
        self._full = len(gate.connections) >= self.limits.connections
        gate.connections.add(self)
        edge.read_in_pieces(transport)
        edge.bound_kernel_buffers(transport, self.limits.read_stall)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.connections.discard(self)
        self._forget_bodies()
        self._waiting.clear()
        self._end_work()

    def tick(self, now: float) -> None:
        """Look at the clocks: of a head, of a body, of a reader that is stuck, of an idle connection."""
        limits = self.limits
        idle = IDLE_GRACE if self.gate.drain.draining else limits.keep_alive
        if self._until:
            if now >= self._until:
                self.transport.abort()
        elif self._stuck and now - self._stuck > limits.read_stall:
            self.transport.abort()
        elif self._splice or self._paused or self._expects or self.transport.is_closing():
            return  # or it is the client that waits for us
        elif self._in_head and now - self._begun > limits.header_timeout:
            self.refuse(timed_out(f"no whole request head within {limits.header_timeout:g} s"))
        elif self._request and not self._in_head and now - self._last > limits.body_timeout:
            self.refuse(timed_out(f"the request body stopped for {limits.body_timeout:g} s before its end"))
        elif not self._asked and not self._request and now - self._last > idle:
            self.transport.close()

    def shutdown(self) -> None:
        """The server wants to end: close as soon as nothing is under way."""
        if self._work:
            self._work.shutdown()
        elif not self._asked and not self._request:
            self.transport.close()

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self._until:
            return  # read and forget: closing with unread bytes would reset the answer away
        self._last = self.loop.time()
        if self._splice:
            self._splice(data)
            return
        while data and not self._until:
            data = self._read(data)

    def _read(self, data: bytes) -> bytes:
        """Feed the parser; what is to be read once more."""
        again, held, self._begins = b"", self._size, False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as met:
            again = self._upgraded(data[met.args[0] :])
        except httptools.HttpParserCallbackError as met:
            error = met.__context__
            self.refuse(error if isinstance(error, RequestError) else invalid("it cannot be read"))
        except httptools.HttpParserError as met:
            self.refuse(unreadable(met))
        if self._request and not self._until and not self._begins:  # else some of it is of the request before
            self._head += len(data) - (self._size - held)  # names of trailers and of chunks have no end either
            if self._head > self.limits.header_bytes + self._size:
                self.refuse(head_too_large(self.limits))
        return again

    def on_message_begin(self) -> None:
        self._request, self._in_head, self._begins = Request(), True, True
        self._pieces, self._size, self._count, self._head = [], 0, 0, 0
        self._begun = self._last

    def on_url(self, url: bytes) -> None:
        assert self._request
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer
            assert self._request
            self._request.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        request = self._request
        assert request
        self._in_head = False
        request.method = self._parser.get_method().decode("latin-1")
        request.version = self._parser.get_http_version()
        check_head(request, self.limits, full=self._full)
        if (request.header(b"expect") or b"").lower() == b"100-continue":
            self._expects = True
            self._continue()

    def _continue(self) -> None:
        """Tell a client that waits with its body, unless that would come into the midst of another answer."""
        if self._expects and not self._asked and not self._waiting:
            self._expects = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        limits = self.limits
        self._expects = False
        self._pieces.append(body)
        self._size += len(body)
        self._count += 1
        self._held += len(body)
        self.gate.bodies.bytes += len(body)
        if self._size > limits.body_bytes:
            raise body_too_large(limits)
        if self.gate.bodies.bytes > limits.bodies_bytes:
            raise RequestError(
                f"requests of more than {limits.bodies_bytes >> 20} MiB together wait for their answers",
                status=503, code="too_many_bodies", details={"retry_after": 1},
            )  # fmt: skip
        if self._count > PIECES and self._size < self._count * SMALLEST_PIECE:
            raise invalid(f"a body in chunks of less than {SMALLEST_PIECE} bytes")

    def on_message_complete(self) -> None:
        request = self._request
        assert request
        self._request, self._expects = None, False
        request.body = b"".join(self._pieces)
        self._pieces = []
        request.keep = self._parser.should_keep_alive()
        request.upgrade = self._parser.should_upgrade()
        if request.websocket:
            request.keep = False  # an answer in HTTP is the last
        elif request.upgrade:
            self._unoffered = request
            return
        self._waiting.append(request)
        if len(self._waiting) > PIPELINED:
            self._paused = True
            self.transport.pause_reading()
        self._go_on()

    @property
    def work(self) -> Work | None:
        """What answers the request under way; another may go on with it."""
        return self._work

    @work.setter
    def work(self, work: Work) -> None:
        if self._asked is not None:
            self._work = work

    # ── one request after another ───────────────────────────────────────────────────────────────────────────────────

    def _next(self) -> None:
        """Begin with the next request that waits."""
        self._asked = self._waiting.popleft()
        self._status = 0
        work = self.gate.serve(self, self._asked)
        if self._asked is not None:  # else it was answered at once
            self._work = work

    def _answered(self) -> None:
        """The answer is whole: go on with the connection, or close it."""
        asked, self._asked, self._work = self._asked, None, None
        assert asked
        self._release(len(asked.body))
        self._last = self.loop.time()
        if not asked.keep:
            self.transport.close()
            return
        if self._paused and len(self._waiting) <= PIPELINED:
            self._paused = False
            self._begun = self._last  # for as long as we read nothing, no head was late
            self.transport.resume_reading()
        self._continue()
        if self._waiting and not self._until:
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Begin with the next request, unless the client leaves the answers before it unread."""
        if self._waiting and not self._asked and not self._stuck and not self.transport.is_closing():
            self._next()

    def _end_work(self) -> None:
        work, self._work, self._asked = self._work, None, None
        if work:
            work.gone()

    def _forget_bodies(self) -> None:
        self._release(self._held)

    def forget_body(self) -> None:
        """Nobody needs the body of the request under way any more."""
        if self._asked:
            self._release(len(self._asked.body))
            self._asked.body = b""

    def _release(self, count: int) -> None:
        self._held -= count
        self.gate.bodies.bytes -= count

    # ── answering ───────────────────────────────────────────────────────────────────────────────────────────────────

    def head(self, status: int, headers: Headers, length: int | None) -> None:
        """Begin the answer; `length` None: not known before its end. Sent by `flush`, with what else there is."""
        asked = self._asked
        assert asked and not self._status
        self._status = status
        lines = [b"HTTP/1.1 %d %s" % (status, phrase(status))]
        lines += [name + b": " + value for name, value in headers]
        self._chunked = False
        if length is not None:
            lines.append(b"content-length: %d" % length)
        elif status not in BODILESS and asked.method != "HEAD":
            self._chunked = asked.version == "1.1"
            if self._chunked:
                lines.append(b"transfer-encoding: chunked")
            else:
                asked.keep = False
        asked.keep = asked.keep and not self.gate.drain.draining  # for good: a client that is told so asks once more
        if not asked.keep:
            lines.append(b"connection: close")
        elif asked.version == "1.0":
            lines.append(b"connection: keep-alive")
        lines.append(b"\r\n")
        self._out.append(b"\r\n".join(lines))

    def take_back(self) -> None:
        """Forget the answer that began: nothing of it was flushed."""
        self._out.clear()
        self._status = 0

    def data(self, data: bytes) -> None:
        """More of its body."""
        if self._chunked:
            self._out.append(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._out.append(data)

    def end(self) -> None:
        """Its end, sent at once."""
        if self._chunked:
            self._out.append(b"0\r\n\r\n")
        self.flush()
        self._answered()

    def flush(self) -> None:
        """Send what there is."""
        if self._out and not self.transport.is_closing():
            self.transport.write(b"".join(self._out) if len(self._out) > 1 else self._out[0])
        self._out.clear()

    def answer(self, status: int, kind: bytes, body: bytes, headers: Headers = ()) -> None:
        """A whole answer of our own."""
        asked = self._asked
        assert asked
        self.head(status, [(b"content-type", kind), (b"cache-control", b"no-store"), *headers], len(body))
        if asked.method != "HEAD":
            self.data(body)
        self.end()

    def json(self, value: Any, status: int = 200, headers: Headers = ()) -> None:
        self.answer(status, b"application/json", json.dumps(value).encode(), headers)

    def error(self, error: RequestError, shown: Callable[[RequestError], Any] = error_object) -> None:
        """An error as the whole answer; one that comes after the answer began cuts the connection."""
        if self._status:
            self.cut()
        else:
            self.json(shown(error), error.status, error_headers(error))

    def cut(self) -> None:
        """End the connection: the answer is no whole, and its client sees that."""
        self.flush()
        self.transport.abort()

    def refuse(self, error: RequestError) -> None:
        """Answer what cannot be read, where no answer has begun, then close once the client had time to read it."""
        begun = bool(self._status and self._asked)
        self._end_work()
        self._forget_bodies()
        self._waiting.clear()
        self._request = None
        self._until = self.loop.time() + LINGER
        if self.transport.is_closing():
            return
        if not begun:
            self.gate.refused(error.status)
            self.transport.write(whole(error))
        self.transport.resume_reading()
        with contextlib.suppress(OSError):  # the client may be gone already
            self.transport.write_eof()

    # ── becoming a pipe ─────────────────────────────────────────────────────────────────────────────────────────────

    def _upgraded(self, rest: bytes) -> bytes:
        """The bytes behind a handshake wait for who takes them. A request for an upgrade that nobody offers is to be
        read once more without that, since llhttp takes its body for what is behind it."""
        request, self._unoffered = self._unoffered, None
        if request is None:
            self._splice = self._hold
            self._hold(rest)
            return b""
        self._parser = httptools.HttpRequestParser(self)
        lines = [b"%b %b HTTP/%b" % (request.method.encode(), request.target, request.version.encode())]
        lines += [name + b": " + value for name, value in request.headers if name not in (b"connection", b"upgrade")]
        return b"\r\n".join([*lines, b"", rest])

    def _hold(self, data: bytes) -> None:
        """Nobody sends so much before a handshake is answered."""
        self._early += data
        if len(self._early) > self.limits.header_bytes:
            self.transport.abort()

    def splice(self, take: Callable[[bytes], None]) -> None:
        """From now on all bytes go to `take`, those that came already first; `pass_on` sends."""
        self._splice = take
        if self._early:
            take(self._early)

    def pass_on(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """The other end of the pipe has ended."""
        self.transport.close()

    # ── a slow reader ───────────────────────────────────────────────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        self._stuck = self.loop.time()
        if self.transport.get_write_buffer_size() > self.limits.write_buffer:
            self.transport.abort()
        elif self._work:
            self._work.pause()

    def resume_writing(self) -> None:
        self._stuck = 0.0
        if self._work:
            self._work.resume()
        self._go_on()
