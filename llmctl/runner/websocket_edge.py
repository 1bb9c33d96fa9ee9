"""The WebSocket edge of a slot: handshakes, frames, sizes and times of RFC 6455, settled below the application.

An ASGI server of one connection, on the frames of the websockets library. Two messages are our own: the application
is told `websocket.drain` when the server wants to end, and says `websocket.answered` when nothing that it received
waits for an answer any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
from collections.abc import Callable, Iterable, MutableSet
from dataclasses import dataclass
from typing import Any

from websockets.datastructures import Headers
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from llmctl.domain import Limits
from llmctl.errors import RequestError
from llmctl.runner.exchange import App
from llmctl.runner.intake import PIECES, SMALLEST_PIECE, Bodies

MESSAGE = 16 * 2**20  # the longest message that is taken, bytes
PING = 20.0  # seconds between pings; who says nothing until the next one is gone
CLOSE_WAIT = 5.0  # seconds that a client has to answer a close, or to read why it was refused
CONTROL_HEAD = 6  # bytes of a control frame besides its data
BAD_TEXT, TOO_BIG, TRY_LATER = 1007, 1009, 1013

log = logging.getLogger("llmctl.runner.websocket")
log.setLevel(logging.CRITICAL)  # the library logs what a client sends wrong: a client could fill the log


class Gone(OSError):
    """The client went away, or the connection is closed."""


@dataclass(frozen=True)
class Upgrade:
    """What a connection brings along from HTTP."""

    transport: asyncio.Transport
    scope: dict[str, Any]
    app: App
    limits: Limits
    bodies: Bodies
    connections: MutableSet[Any]


def handshake(method: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The answer to a client's handshake; RequestError when it is none. No extension and no subprotocol is taken."""
    given = Headers((name.decode("ascii"), value.decode("latin-1")) for name, value in headers)
    if method != b"GET":
        raise _no_handshake("its method must be GET")
    if given.get("content-length", "0") != "0" or "transfer-encoding" in given:
        raise _no_handshake("it has a body")
    response = ServerProtocol(logger=log).accept(Request("/", given))
    if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
        raise _no_handshake("Connection, Sec-WebSocket-Key or Sec-WebSocket-Version is missing or wrong")
    return response.serialize()


def _no_handshake(why: str) -> RequestError:
    return RequestError(f"this is no WebSocket handshake: {why}", code="invalid_handshake")


class WebSocketEdge(asyncio.Protocol):
    """One connection, from its handshake on."""

    def __init__(self, upgrade: Upgrade, greeting: bytes, early: bytes) -> None:
        self._upgrade, self._greeting = upgrade, greeting
        self.transport, self.limits, self.bodies = upgrade.transport, upgrade.limits, upgrade.bodies
        self.loop = asyncio.get_running_loop()
        largest = min(MESSAGE, self.limits.body_bytes)
        self._frames = ServerProtocol(state=OPEN, max_size=largest, logger=log)
        self._accepted = self._closed = False  # closed: nothing is sent or read any more
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._parts: list[bytes] = []  # of the message that comes
        self._text = False
        self._size = 0  # of the parts
        self._coming = self._unanswered = 0  # bytes held: of the message that comes, and of whole ones
        self._writable = asyncio.Event()
        self._writable.set()
        self._heard = True  # since the last ping
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._queue.put_nowait({"type": "websocket.connect"})
        self.transport.set_protocol(self)
        upgrade.connections.add(self)
        self._task = self.loop.create_task(self._run())
        if early:
            self.data_received(early)

    async def _run(self) -> None:
        await self._upgrade.app(self._upgrade.scope, self.receive, self.send)
        if not self._closed:
            self._linger()

    # ── the connection ──────────────────────────────────────────────────────────────────────────────────────────────

    def connection_lost(self, exc: Exception | None) -> None:
        self._upgrade.connections.discard(self)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.bodies.bytes -= self._coming + self._unanswered
        self._end(1006)
        self._writable.set()  # a sender that waits learns that nobody reads

    def shutdown(self) -> None:
        """The server wants to end: the application closes when it has no answer under way."""
        self._queue.put_nowait({"type": "websocket.drain"})

    def _end(self, code: int) -> None:
        """Nothing is sent or read any more; the application is told once."""
        if not self._closed:
            self._closed = True
            self._queue.put_nowait({"type": "websocket.disconnect", "code": code})

    def _after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` in `seconds`, instead of what this timer was to do before."""
        self._not_after(name)
        self._timers[name] = self.loop.call_later(seconds, call)

    def _not_after(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self._closed:  # we linger: read and forget
            return
        self._heard = True
        self._hold(len(data))
        self._frames.receive_data(data)
        for event in self._frames.events_received():
            if isinstance(event, Frame) and not self._closed:
                self._frame(event)
        self._flush()
        if self._frames.close_expected():
            self._linger()

    def eof_received(self) -> bool:
        self._end(1006)
        return False  # the transport closes itself

    def _frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self._end(Close.parse(frame.data).code)
        elif frame.opcode in (Opcode.PING, Opcode.PONG):
            self._hold(-len(frame.data) - CONTROL_HEAD)
        else:
            self._part(frame)

    def _part(self, frame: Frame) -> None:
        """A message, or a piece of one."""
        if frame.opcode is not Opcode.CONT:
            self._parts, self._size, self._text = [], 0, frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        self._size += len(frame.data)
        if len(self._parts) > PIECES and self._size < len(self._parts) * SMALLEST_PIECE:
            self._frames.fail(TOO_BIG, f"a message in pieces of less than {SMALLEST_PIECE} bytes")
        elif frame.fin:
            self._message(b"".join(self._parts))

    def _message(self, data: bytes) -> None:
        """A whole message. Reading stops until the application has taken it."""
        self._parts = []
        self._unanswered, self._coming = self._unanswered + self._coming, 0
        try:
            found: dict[str, Any] = {"text": data.decode()} if self._text else {"bytes": data}
        except UnicodeDecodeError:
            self._frames.fail(BAD_TEXT, "a text message that is no UTF-8")
            return
        self._queue.put_nowait({"type": "websocket.receive", **found})
        self.transport.pause_reading()

    def _hold(self, size: int) -> None:
        """Count bytes that came, among those of all requests that are not answered yet."""
        self._coming += size
        self.bodies.bytes += size
        if self.bodies.bytes > self.limits.bodies_bytes:
            self._frames.fail(TRY_LATER, "too many bytes wait for their answers")

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _flush(self) -> None:
        """Write what the frames want to be written; a client that reads too little of it is dropped."""
        for data in self._frames.data_to_send():
            if data and self._accepted and not self.transport.is_closing():
                self.transport.write(data)
        if self.transport.get_write_buffer_size() > self.limits.write_buffer:
            self._abort()

    def pause_writing(self) -> None:
        self._writable.clear()
        self._after("stall", self.limits.read_stall, self._abort)

    def resume_writing(self) -> None:
        self._not_after("stall")
        self._writable.set()

    def _abort(self) -> None:
        self._end(1006)
        self.transport.abort()

    def _ping(self) -> None:
        """Every PING seconds: who has said nothing since the last one is gone."""
        if self._closed:
            return
        if not self._heard:
            self._abort()
            return
        self._heard = False
        self._frames.send_ping(b"")
        self._flush()
        self._after("ping", PING, self._ping)

    def _linger(self) -> None:
        """End the connection once the client had time to read what was written: unread bytes would reset it away."""
        self._end(1006)
        if self.transport.is_closing():
            return
        self.transport.resume_reading()
        with contextlib.suppress(OSError):  # the client may be gone already
            self.transport.write_eof()
        self._after("linger", CLOSE_WAIT, self.transport.abort)

    # ── the application's side ──────────────────────────────────────────────────────────────────────────────────────

    async def receive(self) -> dict[str, Any]:
        message = await self._queue.get()
        if self._queue.empty():
            self.transport.resume_reading()
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's send. Gone when nobody is there any more."""
        kind = message["type"]
        if kind == "websocket.answered":
            self.bodies.bytes -= self._unanswered
            self._unanswered = 0
            return
        await self._writable.wait()
        if self._closed:
            raise Gone
        if kind == "websocket.send":
            self._frames.send_text(message["text"].encode())
            self._flush()
        elif kind == "websocket.accept":
            self._accepted = True
            self.transport.write(self._greeting)
            self._after("ping", PING, self._ping)
            self._flush()
        elif kind == "websocket.close":
            self._frames.send_close(message["code"], message["reason"])
            self._flush()
            self._linger()
        elif kind == "websocket.http.response.start":
            self.transport.write(_head(message["status"], message["headers"]))
        elif kind == "websocket.http.response.body":
            self.transport.write(message["body"])
            self._linger()


def _head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer that refuses a handshake."""
    lines = [b"HTTP/1.1 %d %s" % (status, http.HTTPStatus(status).phrase.encode())]
    lines += [name + b": " + value for name, value in (*headers, (b"connection", b"close"))]
    return b"\r\n".join(lines) + b"\r\n\r\n"
