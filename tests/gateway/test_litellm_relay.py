"""What ends a client's connection on its way to LiteLLM, over a proxy that takes and gives what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from llmctl.domain import Limits
from llmctl.gateway.litellm_relay import Relay

WITHIN = 60.0
MUCH = 8 * 2**20


@dataclass
class Around:
    """`asked` gets the proxy's end of each connection; `among` are those that live."""

    limits: Limits
    port: int = 0
    among: set[Relay] = field(default_factory=set)
    asked: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=asyncio.Queue)
    opened: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def proxy(self) -> Any:
        return self

    async def client(self) -> tuple[socket.socket, asyncio.StreamReader, asyncio.StreamWriter]:
        """A client's socket, and the proxy's end of the connection."""
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: Relay(self.proxy, self.among, self.limits), ours)
        self.opened.callback(theirs.close)
        reads, writes = await asyncio.wait_for(self.asked.get(), WITHIN)
        self.opened.push_async_callback(self._end, writes)
        return theirs, reads, writes

    async def _end(self, writes: asyncio.StreamWriter) -> None:
        writes.close()
        with contextlib.suppress(OSError):
            await writes.wait_closed()

    async def none_left(self) -> None:
        async def empty() -> None:
            while self.among:
                await asyncio.sleep(0.02)

        await asyncio.wait_for(empty(), WITHIN)


@contextlib.asynccontextmanager
async def around(limits: Limits) -> AsyncIterator[Around]:
    made = Around(limits)
    server = await asyncio.start_server(lambda *ends: made.asked.put_nowait(ends), "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server, made.opened:
        yield made
        await made.opened.aclose()
        await made.none_left()


async def read(client: socket.socket, count: int) -> int:
    """Read so many bytes, fewer where they end."""
    seen = 0
    while seen < count:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 2**16), WITHIN)
        if not data:
            break
        seen += len(data)
    return seen


def test_l5_who_says_nothing_or_half_a_head_is_not_kept_and_who_waits_for_an_answer_is() -> None:
    async def run() -> None:
        async with around(Limits(header_timeout=2.0)) as made:
            loop = asyncio.get_running_loop()
            waits, _, answers = await made.client()
            for piece in (b"GET / HTTP/1.1\r\nhost: x\r\n", b"\r", b"\n"):
                await loop.sock_sendall(waits, piece)
                await asyncio.sleep(0.02)
            silent, *_ = await made.client()
            half, *_ = await made.client()
            await loop.sock_sendall(half, b"GET / HTTP/1.1\r\nhost:")
            assert await read(silent, 1) == await read(half, 1) == 0
            assert len(made.among) == 1
            answers.write(b"late")
            assert await read(waits, 4) == 4

    asyncio.run(run())


def test_l4_who_reads_nothing_is_dropped_whether_more_comes_or_not() -> None:
    async def run() -> None:
        async with around(Limits(read_stall=0.5)) as made:
            for answer in (b"x" * MUCH, b"x" * 40_000):  # the second: less than asyncio would ever pause for
                _, reads, writes = await made.client()
                writes.write(answer)
                await made.none_left()
                with contextlib.suppress(ConnectionResetError):  # what it wrote was not read
                    assert await asyncio.wait_for(reads.read(), WITHIN) == b""

    asyncio.run(run())


def test_who_was_slow_once_is_kept() -> None:
    async def run() -> None:
        async with around(Limits(read_stall=2.0)) as made:
            client, _, writes = await made.client()
            writes.write(b"x" * MUCH)
            assert await read(client, MUCH) == MUCH
            await asyncio.sleep(2.5)
            writes.write(b"more")
            assert await read(client, 4) == 4

    asyncio.run(run())
