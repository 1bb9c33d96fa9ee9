"""Many clients at once on a real slot server: L1, L4. The long forms are scripts/soak and scripts/bench."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable

from llmctl.domain import Limits, SlotSpec
from llmctl.processes import memory_bytes
from llmctl.slots.state import Launch
from tests.clients import chat, get, post, sse
from tests.conftest import RunningSlot, eventually
from tests.gateway.conftest import gateway, served

__all__ = ["gateway", "served"]
Script = Callable[..., SlotSpec]
Slots = Callable[..., RunningSlot]

STREAMS, ROUNDS, TOKENS = 64, 2, 30
STOPPED, LENGTH, BUFFER = 50, 900, 32 * 2**10


def test_l01_64_streams_all_end_and_none_fails(served: Slots, script: Script) -> None:
    slot = served(script("alpha", parallel=STREAMS, length=TOKENS, step=0.002))
    seen: list[tuple[int, object, int]] = []

    def client() -> None:
        for _ in range(ROUNDS):
            body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
            status, _, text = post(slot.port, "/v1/chat/completions", body)
            rows = sse(text)
            seen.append((status, rows[-1], sum(bool(r["choices"][0]["delta"].get("content")) for r in rows[:-1])))

    threads = [threading.Thread(target=client) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [(200, "[DONE]", TOKENS)] * (STREAMS * ROUNDS)
    assert slot.status().active == 0


def test_l04_readers_that_stop_reading_hold_up_nobody_and_are_dropped(slots: Slots, script: Script) -> None:
    limits = Limits(drain=5.0, read_stall=3.0, write_buffer=BUFFER)
    spec = script("alpha", parallel=STOPPED + 4, length=LENGTH, answers={"quick": "A port on a host."})
    slot = slots(spec, Launch(limits=limits))
    server = slot.server_pid()
    assert server
    before = memory_bytes(server)
    stopped = [stop_reading(slot.port) for _ in range(STOPPED)]
    for _ in range(5):
        assert chat(slot.port, "quick", max_tokens=20)[0] == 200
    eventually(lambda: in_flight(slot.port) == 1)
    assert memory_bytes(server) - before < STOPPED * 2**20
    assert not any(whole(sock) for sock in stopped)


def in_flight(port: int) -> float:
    """Requests being answered, this one among them."""
    lines = get(port, "/metrics")[2].splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("llmctl_requests_in_flight "))


def stop_reading(port: int) -> socket.socket:
    """A client that asks for an answer that no buffer holds, and never reads any of it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    body = json.dumps({"messages": [{"role": "user", "content": "long"}], "stream": True, "n": 12}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


def whole(sock: socket.socket) -> bool:
    """Whether the answer came to its end after all."""
    data = b""
    with sock:
        sock.settimeout(30)
        with contextlib.suppress(OSError):
            while piece := sock.recv(2**16):
                data += piece
    return b'finish_reason":"' in data
