"""The HTTP/1.1 edge of a slot: sizes, times and malformed requests are settled here, in the OpenAI error shape.

A subclass of uvicorn's h11 protocol, which by itself answers a malformed request with plain text, takes
Content-Length beside Transfer-Encoding and waits for ever for the second half of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmctl.domain import Limits
from llmctl.errors import RequestError
from llmctl.runner.exchange import App, Receive, Scope, Send, error_headers, error_object
from llmctl.runner.intake import Bodies, Intake
from llmctl.runner.websocket_edge import Upgrade, WebSocketEdge, handshake

LINGER = 2.0  # seconds to go on reading after a refusal: closing with unread bytes would reset the answer away
SPARE = 64  # connections over the limit that still get a 503 (and /health); more are cut at once
SEND_BUFFER = 256 * 1024  # of the kernel, per connection
PIECE = 64 * 1024
"""Bytes of one read. Asyncio's own 256 KiB may be mapped for each read and unmapped after it, at several times its
cost."""

log = logging.getLogger("llmctl.runner.http")
log.setLevel(logging.ERROR)  # uvicorn warns of every malformed request and every upgrade: a client could fill the log


class Drain:
    """Set `draining`, and every answer that begins from then on carries `Connection: close`."""

    def __init__(self) -> None:
        self.draining = False


def make_protocol(
    limits: Limits, drain: Drain | None = None, refused: Callable[[int], None] = lambda status: None
) -> type[Edge]:
    """The protocol class of one port, for uvicorn's `Config(http=…)`. `refused` is told each refusal's status."""

    class Protocol(Edge):
        pass

    Protocol.limits = limits
    Protocol.drain = drain or Drain()
    Protocol.bodies = Bodies()
    Protocol.refused = staticmethod(refused)
    return Protocol


class Edge(H11Protocol):
    """One connection."""

    limits: Limits
    drain: Drain
    bodies: Bodies
    refused: Callable[[int], None]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn: Intake = Intake(self.limits, self.bodies)
        self.timeout_keep_alive = self.limits.keep_alive  # type: ignore[assignment]  # call_later takes a float
        self.app = _closing(self.app, self.drain)
        self.logger = log
        self._refused = self._upgraded = False
        self._last_byte = 0.0
        self._waiting: Callable[[], None] | None = None  # for the rest of a request; called when it does not come
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # ── the connection ──────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections + SPARE:
            transport.abort()
            return
        self.conn.full = len(self.connections) > self.limits.connections
        read_in_pieces(transport)
        bound_kernel_buffers(transport, self.limits.read_stall)
        self.timeout_keep_alive_task = self.loop.call_later(self.limits.keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_for(None)
        self._end_write_timer()
        self._unset_keepalive_if_required()
        self.conn.forget_body()
        super().connection_lost(exc)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if not self._refused:  # else we linger: read and forget
            self._last_byte = self.loop.time()
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self._refused or self._upgraded or self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY:
            self._wait_for(self._body_late, self.limits.body_timeout)
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait_for(self._head_late, self.limits.header_timeout)
        else:
            self._wait_for(None)

    def _wait_for(self, late: Callable[[], None] | None, seconds: float = 0.0) -> None:
        """Start the clock of the head or of the body, unless it runs already; None stops it."""
        if late == self._waiting:
            return
        self._waiting = late
        if self._read_timer:
            self._read_timer.cancel()
        self._read_timer = self.loop.call_later(seconds, late) if late else None

    def _head_late(self) -> None:
        self.refuse(_timed_out(f"no whole request head within {self.limits.header_timeout:g} s"))

    def _body_late(self) -> None:
        """Refuse when no byte came for body_timeout, else look again when that could be so."""
        timeout = self.limits.body_timeout
        left = self._last_byte + timeout - self.loop.time()
        if left > 0:
            self._read_timer = self.loop.call_later(left, self._body_late)
        else:
            self.refuse(_timed_out(f"the request body stopped for {timeout:g} s before its end"))

    # ── refusing ────────────────────────────────────────────────────────────────────────────────────────────────────

    def send_400_response(self, msg: str) -> None:
        self.refuse(self.conn.why)

    def refuse(self, error: RequestError) -> None:
        """Answer with `error` where no answer has begun, then close once the client had time to read it."""
        answerable = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        self._refused = True
        self.conn.forget_body()
        self._wait_for(None)
        self._unset_keepalive_if_required()
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.is_closing():
            return
        if answerable:
            self.refused(error.status)
            self.transport.write(_answer(error))
        self.flow.resume_reading()
        with contextlib.suppress(OSError):  # the client may be gone already
            self.transport.write_eof()
        self._read_timer = self.loop.call_later(LINGER, self.transport.abort)

    def on_response_complete(self) -> None:
        self.conn.forget_body()
        super().on_response_complete()

    # ── becoming a WebSocket ────────────────────────────────────────────────────────────────────────────────────────

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """A client's handshake: from here on the connection is a WebSocketEdge, this object is none any more."""
        try:
            greeting = handshake(event.method, event.headers)
        except RequestError as error:
            self.refuse(error)
            return
        self._upgraded = True
        self._wait_for(None)
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        upgrade = Upgrade(
            self.transport, {**self.scope, "type": "websocket", "scheme": "ws"}, self.config.loaded_app, self.limits,
            self.bodies, self.connections,
        )  # fmt: skip
        made = WebSocketEdge(upgrade, greeting, self.conn.trailing_data[0])
        if self.drain.draining:
            made.shutdown()

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        """The client reads more slowly than we write: bounded in bytes and in time."""
        super().pause_writing()
        if self.transport.get_write_buffer_size() > self.limits.write_buffer:
            self.transport.abort()
        else:
            self._write_timer = self.loop.call_later(self.limits.read_stall, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_write_timer()
        super().resume_writing()

    def _end_write_timer(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None


def _closing(app: Any, drain: Drain) -> App:
    """`app`, whose answers carry `Connection: close` while draining."""

    async def closing(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: dict[str, Any]) -> None:
            if drain.draining and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), CLOSE_HEADER]}
            await send(message)

        await app(scope, receive, send_closing)

    return closing


def read_in_pieces(transport: asyncio.BaseTransport) -> None:
    """Have asyncio read no more than PIECE at once, where it lets itself be told."""
    if hasattr(transport, "max_size"):
        transport.max_size = PIECE


def bound_kernel_buffers(transport: asyncio.Transport, seconds: float) -> None:
    """A client that stops reading, or vanishes, is noticed by the kernel too, and holds little of its memory."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def _timed_out(message: str) -> RequestError:
    return RequestError(message, status=408, code="request_timeout")


def _answer(error: RequestError) -> bytes:
    """A whole response that ends the connection."""
    body = json.dumps(error_object(error)).encode()
    lines = [
        b"HTTP/1.1 %d %s" % (error.status, http.HTTPStatus(error.status).phrase.encode()),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
        *(name + b": " + value for name, value in error_headers(error)),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
