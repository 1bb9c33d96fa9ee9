"""The port: bound once, accepted on as long as the server lives, drained without losing a connection.

uvicorn's HTTP protocol is used without its server: accepting, draining and signals are the slot server's own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
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


class Listener:
    """Accepts on a socket that stays open when accepting stops: later connections wait in its backlog."""

    def __init__(
        self, sock: socket.socket, app: App, limits: Limits, refused: Callable[[int], None] = lambda status: None
    ) -> None:
        self.sock, self.limits = sock, limits
        self.drain_flag = Drain()
        self.state = ServerState()
        protocol = make_protocol(limits, self.drain_flag, refused)
        self.config = uvicorn.Config(
            app, http=protocol, ws=WebSocketEdge,
            proxy_headers=False, lifespan="off", log_config=None, access_log=False, server_header=False,
            timeout_keep_alive=int(limits.keep_alive),
        )  # fmt: skip
        self.config.load()
        self._server: asyncio.Server | None = None

    async def accept(self) -> None:
        """Start accepting, on a duplicate of the socket."""
        duplicate = self.sock.dup()
        duplicate.setblocking(False)

        protocol_class: Any = self.config.http_protocol_class

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = protocol_class(config=self.config, server_state=self.state, app_state={})
            return made

        self._server = await asyncio.get_running_loop().create_server(protocol, sock=duplicate, backlog=BACKLOG)

    async def drain(self, seconds: float) -> int:
        """Stop accepting and wait until every connection has ended; how many are left after `seconds`.

        Requests on open connections are answered with `Connection: close`; a connection that stays idle through
        IDLE_GRACE is closed.
        """
        self.drain_flag.draining = True
        await self._stop_accepting()
        await self._until_quiet(min(IDLE_GRACE, seconds))
        for connection in list(self.state.connections):
            connection.shutdown()
        await self._until_quiet(seconds - IDLE_GRACE)
        return len(self.state.connections)

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
        while self.state.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)

    async def resume(self) -> None:
        """Accept again after a drain that did not end in an upgrade."""
        self.drain_flag.draining = False
        await self.accept()
