"""Draining a listener loses no connection, at whatever moment of its acceptance it begins."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from llmctl.domain import Limits
from llmctl.runner.listener import Listener, bind
from tests.conftest import free_port


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_who_was_never_stopped_accepts_once_after_resuming() -> None:
    port = free_port()

    async def run() -> int:
        listener = Listener(bind("127.0.0.1", port), app, Limits())
        await listener.accept()
        await listener.resume()  # an upgrade that failed before it began
        await listener.drain(0.0)
        loop, client = asyncio.get_running_loop(), socket.create_connection(("127.0.0.1", port))
        with client:
            client.setblocking(False)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with pytest.raises((asyncio.TimeoutError, TimeoutError)):  # it waits for who accepts next
                await asyncio.wait_for(loop.sock_recv(client, 1000), 1.0)
        connections = len(listener.connections)
        listener.sock.close()
        return connections

    assert asyncio.run(run()) == 0


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_is_answered_or_waits_for_who_accepts_next(turns: int) -> None:
    port = free_port()

    async def run() -> bytes:
        listener = Listener(bind("127.0.0.1", port), app, Limits())
        await listener.accept()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for _ in range(turns):
                await asyncio.sleep(0)
            assert await listener.drain(5.0) == 0
            await listener.resume()
            client.setblocking(False)
            answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1000), 5.0)
        await listener.drain(0.0)
        listener.sock.close()
        return answer

    assert asyncio.run(run()).startswith(b"HTTP/1.1 200")
