"""A client at a constant rate, in a process of its own, which prints the latencies in ms.

    python -m scripts.benchmarks.gateway_paced PORT RATE SECONDS CONNECTIONS < body.json

Requests are due at fixed times, whether those before are answered or not; one for which no connection is free waits,
and that wait counts: a latency is from the time that a request was due, so that a server which stalls delays what the
figures say (no coordinated omission).
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from collections import deque

PATH = "/v1/chat/completions"
KEY = "sk-none"
"""LiteLLM asks for one; where nobody does, it is sent too."""
PATIENCE = 30.0
"""Seconds without any answer after which there is none."""


def connect(port: int) -> socket.socket:
    """A connection without delays."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(body: bytes) -> bytes:
    """A whole request."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def whole(answer: bytes) -> bool:
    """Whether that is all of an answer; ValueError for one that is none."""
    head, gap, body = answer.partition(b"\r\n\r\n")
    if not gap:
        return False
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ValueError(answer[:500])
    at = head.lower().index(b"content-length:") + 15
    return len(body) >= int(head[at:].split(b"\r\n")[0])


def paced(port: int, sent: bytes, rate: float, seconds: float, connections: int) -> list[float]:
    """Latencies in ms."""
    with contextlib.ExitStack() as stack:
        return _paced([stack.enter_context(connect(port)) for _ in range(connections)], sent, rate, int(rate * seconds))


def _paced(socks: list[socket.socket], sent: bytes, rate: float, count: int) -> list[float]:
    free, asked = deque(socks), dict[socket.socket, tuple[float, bytes]]()
    found: list[float] = []
    begin, at = time.perf_counter() + 0.05, 0
    while len(found) < count:
        now = time.perf_counter()
        while at < count and free and begin + at / rate <= now:
            sock = free.popleft()
            asked[sock] = begin + at / rate, b""
            sock.sendall(sent)
            at += 1
        wait = max(0.0, begin + at / rate - time.perf_counter()) if at < count and free else PATIENCE
        ready, _, _ = select.select(list(asked), (), (), wait)  # epoll would round up to whole ms
        if not ready and wait == PATIENCE:
            raise TimeoutError(f"no answer within {PATIENCE:g} s")
        for sock in ready:
            due, answer = asked.pop(sock)
            answer += (data := sock.recv(65536))
            if not data:
                raise ConnectionError("the connection ended in the middle of an answer")
            if whole(answer):
                found.append((time.perf_counter() - due) * 1000)
                free.append(sock)
            else:
                asked[sock] = due, answer
    return found


if __name__ == "__main__":
    port, rate, seconds, connections = sys.argv[1:]
    sent = request(sys.stdin.buffer.read())
    print(json.dumps(paced(int(port), sent, float(rate), float(seconds), int(connections))))
