"""Connections to one replica, kept between requests; each carries one request at a time and tells its listener."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import httptools

from llmctl.errors import Busy, Unreachable
from llmctl.runner.edge import read_in_pieces

IDLE = 20.0
"""Seconds that a connection may rest: less than a slot's keep-alive, so that it is rarely closed as we use it."""
KEPT = 64
CONNECT = 3.0
HEAD = 2**18
"""Bytes of an answer's head above which it is none."""
Headers = list[tuple[bytes, bytes]]


class Listener(Protocol):
    """What is told of one answer. After `ended` or `failed` nothing more."""

    def began(self, status: int, headers: Headers, length: int | None) -> None: ...
    def came(self, data: bytes) -> None: ...
    def flush(self) -> None:
        """All of what came at once has been told."""

    def ended(self) -> None: ...
    def failed(self, why: str) -> None: ...


class Upstream(asyncio.Protocol):
    """One connection to a replica."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport
        self.loop = asyncio.get_running_loop()
        self.used = 0
        self.rested = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._listener: Listener | None = None
        self._bodiless = self._keep = self._whole = False
        self._headers: Headers = []
        self._length: int | None = None
        self._framed = self._told = False
        self._fed = 0
        self._pieces: list[bytes] = []
        self._splice: Callable[[bytes], None] | None = None
        self._lost: Callable[[], None] | None = None
        self._slow: Callable[[bool], None] | None = None
        self.closed = False

    # ── use ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, data: bytes, listener: Listener, *, bodiless: bool = False) -> None:
        """A whole request; `bodiless`: its answer has no body, whatever its head says (HEAD)."""
        self._listener, self._bodiless = listener, bodiless
        self._whole = self._told = False
        self._fed = 0
        self.used += 1
        self.transport.write(data)

    @property
    def heard(self) -> bool:
        """Whether a byte came of the answer to the last request: it was not lost on a connection that had ended."""
        return self._fed > 0

    def splice(self, take: Callable[[bytes], None], lost: Callable[[], None], slow: Callable[[bool], None]) -> None:
        """From now on a pipe: bytes go to `take`, its end to `lost`, and to `slow` whether it is not read now."""
        self._splice, self._lost, self._slow, self._listener = take, lost, slow, None

    def cut(self) -> None:
        """Nobody wants the answer any more: the slot sees that, and stops."""
        self._listener = self._lost = self._slow = None
        self.closed = True
        self.transport.abort()

    # ── the connection ──────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        read_in_pieces(transport)

    def data_received(self, data: bytes) -> None:
        if self._splice:
            self._splice(data)
            return
        if self._listener is None:  # it speaks without being asked
            self.cut()
            return
        if not self._told:
            self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("it leaves HTTP without being asked to")
            return
        except httptools.HttpParserError as met:
            if self._whole:  # what follows the answer spoils the connection, not the answer
                self._keep = False
                self._pass_on()
                return
            self._fail(f"its answer is not HTTP: {met}")
            return
        if not self._told and self._fed > HEAD:
            self._fail("the head of its answer has no end")
            return
        self._pass_on()

    def _pass_on(self) -> None:
        listener, pieces = self._listener, self._pieces
        if listener is None:
            return
        if pieces:
            listener.came(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()
        if self._whole:
            self._listener = None
            self._free()
            listener.ended()
        else:
            listener.flush()

    def _free(self) -> None:
        if self._keep and not self.transport.is_closing():
            self.pool.give_back(self)
        else:
            self.closed = True
            self.transport.close()

    def _fail(self, why: str) -> None:
        listener, self._listener = self._listener, None
        self.closed = True
        self.transport.abort()
        if listener:
            listener.failed(why)

    def eof_received(self) -> bool:
        if self._listener and self._told and not self._framed and self._length is None:
            self._whole, self._keep = True, False  # its end is the end of the connection
            self._pass_on()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.pool.forget(self)
        if self._lost:
            self._lost()
        listener, self._listener = self._listener, None
        if listener:
            listener.failed("it closed the connection" if exc is None else f"the connection broke: {exc}")

    # ── the parser ──────────────────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        if self._whole:
            raise ValueError("an answer that nobody asked for")
        self._headers, self._length, self._framed = [], None, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._told:
            return  # a trailer
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._framed = True
        else:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._told = True
        self._keep = self._parser.should_keep_alive() and not self._bodiless
        if self._listener:
            self._listener.began(status, self._headers, self._length)
        if self._bodiless:
            self._whole = True

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._told:
            self._whole = True

    # ── a slow replica ──────────────────────────────────────────────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        """A request's body is bounded and waits; what comes through a pipe is left with who sends it."""
        if self._slow:
            self._slow(True)

    def resume_writing(self) -> None:
        if self._slow:
            self._slow(False)


Connect = Callable[[Callable[[], Upstream]], Awaitable[tuple[Any, Upstream]]]


class Pool:
    """The connections to one replica. `connect` makes one, however far away it is; `full` says that the way there
    carries as many as it may, and `spare` closes one there that rests, if there is one."""

    def __init__(
        self, connect: Connect, full: Callable[[], bool] = lambda: False, spare: Callable[[], bool] = lambda: False
    ) -> None:
        self._connect, self._full, self._spare = connect, full, spare
        self._idle: list[Upstream] = []  # who rests longest first

    def take(self, now: float) -> Upstream | None:
        """One that rests, the last used first; None where a new one is needed."""
        while self._idle:
            found = self._idle.pop()
            if not found.closed and not found.transport.is_closing() and now - found.rested < IDLE:
                return found
            found.cut()
        return None

    async def fresh(self, *, probes: bool = False) -> Upstream:
        """A new one; Unreachable where there is none to be had in time, Busy where only who `probes` gets one more."""
        while not probes and self._full():
            if not self._spare():
                raise Busy("as many requests as the way to it carries are there")
            await asyncio.sleep(0)  # the loop closes it at its next turn
        try:
            _, made = await asyncio.wait_for(self._connect(lambda: Upstream(self)), CONNECT)
        except (asyncio.TimeoutError, TimeoutError):
            raise Unreachable(f"no connection within {CONNECT:g} s") from None
        except OSError as error:
            raise Unreachable(f"no connection: {error.strerror or error}") from None
        except (ValueError, OverflowError) as error:
            raise Unreachable(f"no connection: its address is none ({error})") from None
        return made

    def give_back(self, one: Upstream) -> None:
        if len(self._idle) < KEPT:
            one.rested = one.loop.time()
            self._idle.append(one)
        else:
            one.cut()

    def prune(self, now: float) -> None:
        """Close those that have rested for IDLE."""
        while self._idle and now - self._idle[0].rested >= IDLE:
            self._idle.pop(0).cut()

    @property
    def resting(self) -> float | None:
        """Since when the one rests that rests longest."""
        return self._idle[0].rested if self._idle else None

    def drop(self) -> None:
        """Close the one that rests longest."""
        self._idle.pop(0).cut()

    def forget(self, one: Upstream) -> None:
        if one in self._idle:
            self._idle.remove(one)

    def close(self) -> None:
        idle, self._idle = self._idle, []
        for one in idle:
            one.cut()
