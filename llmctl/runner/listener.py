"""The port: bound once, accepted on as long as the server lives, drained without losing a connection.

uvicorn's HTTP protocol is used without its server: accepting, draining and signals are the slot server's own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from llmctl.domain import Limits
from llmctl.errors import Refused
from llmctl.runner.edge import Drain, make_protocol
from llmctl.runner.websocket_edge import WebSocketEdge

BACKLOG = 1024
IDLE_GRACE = 2.0
ACCEPTED_TURNS = 5  # of the event loop, within which a connection that was just accepted becomes one of `connections`
App = Callable[..., Awaitable[None]]


def bind(address: str, port: int) -> socket.socket:
    """A listening socket; Refused when another process holds the port (it is never touched)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Refused(
            f"port {port} on {address} cannot be taken: {error.strerror}",
            hint=f"another program holds it: see `ss -ltnp 'sport = :{port}'`, or use another port",
            port=port,
        ) from error
    return sock


class Accepting:
    """Accepts on a socket that stays open when accepting stops: later connections wait in its backlog.

    `made` makes the protocol of a connection, which is among `connections` until it ends, and closes by `shutdown()`
    once nothing is under way; while `drain` says so, answers tell their clients to close.
    """

    def __init__(
        self, sock: socket.socket, made: Callable[[], asyncio.Protocol], connections: Collection[Any], drain: Drain
    ) -> None:
        self.sock, self.connections, self.drain_flag = sock, connections, drain
        self._made = made
        self._server: asyncio.Server | None = None

    async def accept(self) -> None:
        """Start accepting, on a duplicate of the socket."""
        duplicate = self.sock.dup()
        duplicate.setblocking(False)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._made, sock=duplicate, backlog=BACKLOG)

    async def drain(self, seconds: float) -> int:
        """Stop accepting and wait until every connection has ended; how many are left after `seconds`.

        Requests on open connections are answered with `Connection: close`; a connection that stays idle through
        IDLE_GRACE is closed.
        """
        self.drain_flag.draining = True
        await self._stop_accepting()
        await self._until_quiet(min(IDLE_GRACE, seconds))
        for connection in list(self.connections):
            connection.shutdown()
        await self._until_quiet(seconds - IDLE_GRACE)
        return len(self.connections)

    async def _stop_accepting(self) -> None:
        """A connection that was accepted a moment ago becomes one of `connections` first: before Python 3.12 a server
        that is closed drops it."""
        if self._server:
            for sock in self._server.sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            for _ in range(ACCEPTED_TURNS):
                await asyncio.sleep(0)
            self._server.close()

    async def _until_quiet(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while self.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)

    async def resume(self) -> None:
        """Accept again after a drain that did not end in an upgrade, or that did not even begin."""
        self.drain_flag.draining = False
        if self._server is None or not self._server.is_serving():
            await self.accept()


class Listener(Accepting):
    """The same with uvicorn's protocol, for an ASGI application."""

    def __init__(
        self, sock: socket.socket, app: App, limits: Limits, refused: Callable[[int], None] = lambda status: None
    ) -> None:
        self.limits, self.state, drain = limits, ServerState(), Drain()
        self.config = config = uvicorn.Config(
            app, http=make_protocol(limits, drain, refused), ws=WebSocketEdge,
            proxy_headers=False, lifespan="off", log_config=None, access_log=False, server_header=False,
            timeout_keep_alive=int(limits.keep_alive),
        )  # fmt: skip
        config.load()
        protocol: Any = config.http_protocol_class

        def made() -> asyncio.Protocol:
            one: asyncio.Protocol = protocol(config=config, server_state=self.state, app_state={})
            return one

        super().__init__(sock, made, self.state.connections, drain)
