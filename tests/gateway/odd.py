"""Replicas that answer as they are told, byte by byte, and a gate over them in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from llmctl.domain import Limits
from llmctl.gateway import own
from llmctl.gateway.balance import Load
from llmctl.gateway.callers import Callers
from llmctl.gateway.counts import Counts
from llmctl.gateway.front import Front
from llmctl.gateway.gate import Gate, ticking
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.gateway.replicas import Live, Replicas
from llmctl.gateway.spent import Meters
from llmctl.gateway.upstream import Pool
from llmctl.runner.auth import Auth

T = TypeVar("T")
CHAT = "/v1/chat/completions"
HELLO = b'{"choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
DEADLINE = 30.0


def whole(body: bytes = HELLO, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with a length."""
    lines = [b"HTTP/1.1 " + status, b"content-type: application/json", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


def chunked(*pieces: bytes, kind: bytes = b"text/event-stream", end: bool = True) -> bytes:
    """A stream, with its end or without."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + (b"0\r\n\r\n" if end else b"")


def read(sock: socket.socket) -> bytes:
    """One request; EOFError where the gateway has closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(row[15:]) for row in head.lower().split(b"\r\n") if row.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += _some(sock)
    return head + b"\r\n\r\n" + body


def _some(sock: socket.socket) -> bytes:
    if not (data := sock.recv(65536)):
        raise EOFError
    return data


def reset(sock: socket.socket) -> None:
    """End a connection as the kernel of a machine does whose program was killed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def reading_nothing(port: int) -> socket.socket:
    """A client whose own buffer is small, so that the gate's is what fills."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    return sock


Play = Callable[["Odd", socket.socket, int], None]


class Odd:
    """A replica: `play(odd, connection, n)` is what it does with its n-th connection, from 1 on, before that is closed.
    `asked` are the requests that it has read."""

    def __init__(self, play: Play) -> None:
        self.play, self.asked = play, list[bytes]()
        self.connections = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                sock.settimeout(DEADLINE)
                self.connections += 1
                self._open.append(sock)
                threading.Thread(target=self._run, args=(sock, self.connections), daemon=True).start()

    def _run(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.closing(sock):
            self.play(self, sock, number)

    def request(self, sock: socket.socket) -> bytes:
        found = read(sock)
        self.asked.append(found)
        return found

    def close(self) -> None:
        self._listening.close()
        for sock in self._open:
            sock.close()


def says(*answers: bytes) -> Play:
    """Answers the requests of a connection with these bytes, one after the other and from the first again."""

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        while True:
            for answer in answers:
                odd.request(sock)
                sock.sendall(answer)

    return play


def dies_after(*pieces: bytes) -> Play:
    """Reads a request, sends that, and resets the connection."""

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        for piece in pieces:
            sock.sendall(piece)
        threading.Event().wait(0.1)  # what was sent is read before the reset discards it
        reset(sock)

    return play


def silent(odd: Odd, sock: socket.socket, number: int) -> None:
    """Reads requests, and never answers."""
    while True:
        odd.request(sock)


def echo(odd: Odd, sock: socket.socket, number: int) -> None:
    """A WebSocket that sends back what it is sent, by a real server's protocol."""
    from websockets.frames import Opcode
    from websockets.http11 import Request
    from websockets.server import ServerProtocol

    protocol = ServerProtocol()
    while data := sock.recv(65536):
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Request):
                protocol.send_response(protocol.accept(event))
            elif event.opcode is Opcode.TEXT:
                protocol.send_text(event.data)
        for piece in protocol.data_to_send():
            sock.sendall(piece)
        if protocol.close_expected():
            return


@dataclass
class Odds:
    """A gate that runs, and what stands behind it."""

    port: int
    gate: Gate
    loop: asyncio.AbstractEventLoop
    logged: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{CHAT}"

    def live(self, replica: Any) -> Live:
        return self.gate.replicas.live[f"here:{replica.port}"]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the gate's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE)


def handle(name: str, *replicas: Any, **fields: Any) -> Handle:
    found = tuple(Replica("here", one.port, name, "scripted", f"127.0.0.1:{one.port}") for one in replicas)
    return Handle(name, found, **fields)


@contextlib.contextmanager
def gate_over(
    *handles: Handle, limits: Limits = Limits(), home: Path = Path("/nonexistent"), tick: float = 0.1
) -> Iterator[Odds]:
    """A gate over these handles, the first one the default; its keys are those of `home`."""
    ready: Future[tuple[Odds, asyncio.Event]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_run(handles, limits, home, tick, ready)))
    thread.start()
    odds, over = ready.result(DEADLINE)
    try:
        yield odds
    finally:
        odds.loop.call_soon_threadsafe(over.set)
        thread.join()


async def _run(handles: tuple[Handle, ...], limits: Limits, home: Path, tick: float, ready: Future[Any]) -> None:
    loop, over, logged = asyncio.get_running_loop(), asyncio.Event(), list[dict[str, Any]]()

    def live(replica: Replica) -> Live:
        pool = Pool(lambda made: loop.create_connection(made, "127.0.0.1", replica.port))
        return Live(replica, pool, b"host: 127.0.0.1\r\nauthorization: Bearer of-the-slot", Load(replica.where))

    gate = Gate(
        limits, Auth("127.0.0.1", None), True, Callers(home), Replicas(live, loop.time), {},
        cast(Any, None), Counts(), Meters(home), lambda **said: logged.append(said),
    )  # fmt: skip
    gate.own = own.routes(gate, lambda: {"verdict": "ok", "state": "ready", "ready": True, "status": "healthy"})
    gate.registry = Registry({one.name: one for one in handles}, handles[0].name)
    gate.replicas.follow(gate.registry)
    gate.look()
    server = await loop.create_server(lambda: Front(gate), "127.0.0.1", 0)
    looking = asyncio.ensure_future(ticking(gate, tick))
    ready.set_result((Odds(server.sockets[0].getsockname()[1], gate, loop, logged), over))
    await over.wait()
    looking.cancel()
    server.close()
    for front in list(gate.connections):
        front.transport.abort()
    for one in gate.replicas.live.values():
        one.pool.close()
    await asyncio.sleep(0.05)
