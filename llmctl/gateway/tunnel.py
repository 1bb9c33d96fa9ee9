"""The way to the slots of a host that listen on its loopback: one ssh connection, kept, and opened anew when it broke.

ssh is spoken by threads: nothing here waits on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from llmctl.errors import LlmctlError, TransportCut, Unreachable

CHANNELS = 160
"""Connections to slots over one host's: what a slot lets wait (domain.Limits), and a few. Each costs two threads."""
DIALS = 8
"""Threads that open connections of one host at once; who comes later waits for one of them."""
FIRST, MOST = 0.5, 8.0
"""Seconds after a failed login before the next one, doubling: a host that is away is not hammered."""
Opened = Callable[[], Any]
"""Logs in: a llmctl.fleet.ssh.link.Link, whose import waits for the first one."""


class Tunnel:
    """One host's."""

    def __init__(self, host: str, opened: Opened, clock: Callable[[], float] = time.monotonic) -> None:
        self.host = host
        self._opened, self._clock = opened, clock
        self._turns = asyncio.Semaphore(DIALS)
        self._sockets: list[socket.socket] = []
        self._dialling = 0
        self._lock = threading.Lock()  # one thread logs in, the others wait for it
        self._link: Any = None
        self._pause, self._again = 0.0, 0.0
        self._why: LlmctlError | None = None
        self._over = False

    @property
    def full(self) -> bool:
        """Whether it carries as many connections as it may."""
        self._sockets = [sock for sock in self._sockets if sock.fileno() != -1]
        return len(self._sockets) + self._dialling >= CHANNELS

    async def dial(self, port: int) -> socket.socket:
        """A connected socket to a port of the host's loopback. Unreachable, or one of its kinds: no way there, or
        nobody listens."""
        self._dialling += 1
        try:
            await self._turns.acquire()
            loop = asyncio.get_running_loop()
            found: asyncio.Future[socket.socket] = loop.create_future()
            try:
                threading.Thread(target=self._work, args=(loop, found, port), daemon=True).start()
            except RuntimeError as error:  # of which this machine has no more
                self._turns.release()
                raise Unreachable(f"no way to {self.host}: {error}", host=self.host) from None
            sock = await found
            self._sockets.append(sock)
            return sock
        finally:
            self._dialling -= 1

    def close(self) -> None:
        """End it, and all that goes through it. Waits for no login that goes on: that one ends by itself."""
        self._over = True
        if link := self._link:
            link.close()

    # ── in threads ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _work(self, loop: asyncio.AbstractEventLoop, found: asyncio.Future[socket.socket], port: int) -> None:
        dialled: socket.socket | LlmctlError
        try:
            dialled = self._dialled(port)
        except LlmctlError as error:
            dialled = error
        except Exception as error:  # of paramiko's: whoever waits must hear of it
            dialled = Unreachable(f"no way to {self.host}: {error!r}", host=self.host)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._told, found, dialled)

    def _told(self, found: asyncio.Future[socket.socket], dialled: socket.socket | LlmctlError) -> None:
        self._turns.release()
        if isinstance(dialled, LlmctlError):
            if not found.done():
                found.set_exception(dialled)
        elif found.done():  # nobody waits any more
            dialled.close()
        else:
            found.set_result(dialled)

    def _dialled(self, port: int) -> socket.socket:
        """Over the connection that there is; one that turns out to be broken is replaced, once."""
        from llmctl.fleet.ssh.tunnel import open_tunnel

        link, fresh = self._current()
        try:
            return open_tunnel(link, self.host, "127.0.0.1", port)
        except TransportCut:
            self._drop(link)
            if fresh:
                raise
        link, _ = self._current()
        return open_tunnel(link, self.host, "127.0.0.1", port)

    def _current(self) -> tuple[Any, bool]:
        """The connection, and whether it is a new one."""
        with self._lock:
            if self._link is not None:
                return self._link, False
            if self._why and self._clock() < self._again:
                raise Unreachable(self._why.message, hint=self._why.hint, host=self.host)
            try:
                link = self._opened()
            except LlmctlError as error:
                self._pause = min(MOST, 2 * self._pause or FIRST)
                self._again, self._why = self._clock() + self._pause, error
                raise
            if self._over:
                link.close()
                raise Unreachable(f"the way to {self.host} is closed", host=self.host)
            self._pause, self._why, self._link = 0.0, None, link
            link.watch()
            return link, True

    def _drop(self, link: Any) -> None:
        """It answered nothing: it is not asked again."""
        with self._lock:
            if self._link is link:
                self._link = None
        link.close()
