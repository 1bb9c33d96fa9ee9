"""A fake slot whose streams never end, and a client that counts what comes of them, each in a process of its own:
python -m scripts.benchmarks.gateway_streams serve PORT PACE | count PORT MODEL STREAMS SECONDS"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time

from scripts.benchmarks.gateway_paced import connect, request

MARK = b"~"
"""What is in each event once, and nowhere else: counted wherever the pieces are cut."""
WARM = 1.0
"""Seconds of streaming before any is counted."""
_SAID = {
    "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "chunks",
    "choices": [{"index": 0, "delta": {"content": f" port{MARK.decode()}"}, "finish_reason": None}],
}  # fmt: skip
_EVENT = b"data: %b\n\n" % json.dumps(_SAID).encode()
CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_HEALTH = b'{"state": "ready"}'
_HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_HEALTH), _HEALTH,
)  # fmt: skip


def serve(port: int, pace: float) -> None:
    """Events on every connection, `pace` a second on each (0: as fast as they are taken), each written by itself."""
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    rests: dict[socket.socket, bytes] = {}  # streams that take more, each with what it left of an event
    full: dict[socket.socket, bytes] = {}  # those that take no more for now
    due = time.monotonic()
    while True:
        wait = max(0.0, due - time.monotonic()) if pace else 0.0 if rests else None
        for key, asks in selector.select(wait):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                _accept(selector, listener)
            elif asks & selectors.EVENT_WRITE:
                rests[sock] = full.pop(sock)
                selector.modify(sock, selectors.EVENT_READ)
            elif (data := _read(sock)).startswith(b"GET /health"):
                sock.sendall(_HEALTHY)
            elif data:
                sock.sendall(_HEAD)
                rests[sock] = b""
            else:
                _end(selector, rests, full, sock)
        if pace and time.monotonic() < due:
            continue
        due += 1 / pace if pace else 0.0
        for sock in list(rests):
            left = rests[sock] or CHUNK
            try:
                rests[sock] = left[sock.send(left) :]
            except BlockingIOError:
                full[sock] = rests.pop(sock)
                selector.modify(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
            except OSError:
                _end(selector, rests, full, sock)


def _accept(selector: selectors.BaseSelector, listener: socket.socket) -> None:
    made, _ = listener.accept()
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    selector.register(made, selectors.EVENT_READ)


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""


def _end(
    selector: selectors.BaseSelector, rests: dict[socket.socket, bytes], full: dict[socket.socket, bytes],
    sock: socket.socket,
) -> None:  # fmt: skip
    rests.pop(sock, None)
    full.pop(sock, None)
    selector.unregister(sock)
    sock.close()


def count(port: int, model: str, streams: int, seconds: float) -> tuple[float, int]:
    """Events a second of so many streams at once, and how many of these had any."""
    events, took, seen = counted(port, model, streams, seconds)
    return events / took, seen


def counted(port: int, model: str, streams: int, seconds: float, warm_up: float = WARM) -> tuple[int, float, int]:
    """The events after `warm_up` seconds, the seconds that they took, and how many streams had any."""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "go"}]}).encode()
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(streams):
            made = stack.enter_context(connect(port))
            selector.register(made, selectors.EVENT_READ)
            made.sendall(request(body))
        seen, begin = set(), time.perf_counter() + warm_up
        events, warm = 0, True
        while (now := time.perf_counter()) < begin + seconds:
            if warm and now >= begin:
                warm, events = False, 0
            for key, _ in selector.select(1.0):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                data = sock.recv(2**18)
                if not data:
                    raise ConnectionError("a stream ended")
                seen.add(sock)
                events += data.count(MARK)
    return events, now - begin, len(seen)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), float(sys.argv[3]))
    rate, had = count(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
    print(json.dumps({"rate": rate, "streams": had}))
