"""A client's connection on its way to LiteLLM: bytes go both ways as they come, each end no faster than the other.

LiteLLM has no clock for a request's head, nor for who does not read: ours end such connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import cast

from llmctl.domain import Limits
from llmctl.gateway.litellm_process import Process

AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b"
)
LINGER = 2.0
HEAD = re.compile(rb"\n\r?\n")
"""Its end."""
WHY = b'{"error": {"message": "LiteLLM is not up", "type": "server_error", "code": "unavailable"}}'


class End(asyncio.Protocol):
    """One of the two ends of a connection: what it reads goes to the other one."""

    def __init__(self) -> None:
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other and self.other.transport:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other and self.other.transport:
            self.other.transport.close()


class Relay(End):
    """A client's end. It waits for a proxy that is not up yet, and stays with the one that it got."""

    def __init__(self, proxy: Callable[[], Awaitable[Process | None]], among: set[Relay], limits: Limits) -> None:
        super().__init__()
        self._proxy, self._among, self._limits = proxy, among, limits
        self._process: Process | None = None
        self._late: asyncio.TimerHandle | None = None  # runs until its first request has a whole head
        self._last = b""  # what may be the beginning of that head's end
        self._stuck: asyncio.TimerHandle | None = None  # runs while the client does not read
        self._joining: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport
        if len(self._among) >= self._limits.connections:
            self.transport.close()
            return
        self._among.add(self)
        self.transport.set_write_buffer_limits(high=0)  # so that whatever is left unread starts the clock
        self.transport.pause_reading()
        self._joining = asyncio.get_running_loop().create_task(self._join())

    async def _join(self) -> None:
        assert self.transport
        self._process = await self._proxy()
        if self._process:
            with contextlib.suppress(OSError):
                loop = asyncio.get_running_loop()
                _, back = await loop.create_connection(End, "127.0.0.1", self._process.port)
                self.other, back.other = back, self
                if self.transport.is_closing():
                    self.connection_lost(None)
                else:
                    self._late = loop.call_later(self._limits.header_timeout, self.transport.close)
                    self.transport.resume_reading()
                return
        self._away()

    def _away(self) -> None:
        """Tell a client that there is no proxy; what it still sends is read, for else it would see a reset."""
        assert self.transport
        self.transport.write(AWAY % (len(WHY), WHY))
        self.transport.write_eof()
        self.transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER, self.transport.close)

    def data_received(self, data: bytes) -> None:
        if self._late:
            if HEAD.search(self._last + data):
                self._late.cancel()
                self._late = None
            self._last = (self._last + data)[-2:]
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        assert self.transport
        self._stuck = asyncio.get_running_loop().call_later(self._limits.read_stall, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stuck:
            self._stuck.cancel()
        super().resume_writing()

    def eof_received(self) -> bool:
        """A client that has said all may still read."""
        if self.other and self.other.transport:
            self.other.transport.write_eof()
        return self.other is not None

    def connection_lost(self, error: Exception | None) -> None:
        self._among.discard(self)
        if self._joining and not self._joining.done() and self.other is None:
            self._joining.cancel()
        for clock in (self._late, self._stuck):
            if clock:
                clock.cancel()
        super().connection_lost(error)

    def shutdown(self) -> None:
        """Its proxy knows when nothing is under way, and closes the connection then."""
        if self._process:
            self._process.finish()
