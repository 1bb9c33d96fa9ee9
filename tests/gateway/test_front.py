"""The gateway's edge keeps all the rules of a slot's: the same tests, over the same slot, with a gate between."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from llmctl.domain import Limits
from llmctl.gateway import front
from llmctl.gateway.front import Front
from llmctl.gateway.request import invalid
from llmctl.runner.intake import Bodies
from tests.conftest import eventually
from tests.gateway.fake_gate import serve
from tests.gateway.odd import CHAT, HELLO, Odd, chunked, gate_over, handle, reading_nothing, says, whole
from tests.runner import test_edge as edges
from tests.runner.fake_slot import FakeService, connect, raw, read_response
from tests.runner.test_edge import QUICK

LIKE_A_SLOT = [
    name
    for name in vars(edges)
    if name.startswith("test_")
    and name
    not in (
        "test_a_refused_client_that_is_gone_raises_nothing",  # of uvicorn's protocol; the next one is ours
        "test_a_body_that_stops_after_its_answer_ends_the_connection",  # a slot answers before the body, we behind it
    )
]
globals().update({name: vars(edges)[name] for name in LIKE_A_SLOT})


@pytest.fixture
def slot() -> Iterator[Any]:
    with serve(FakeService(QUICK)) as found:
        yield found


@pytest.fixture(autouse=True)
def _with_a_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "serve", serve)
    monkeypatch.setattr(front, "SPARE", 3)


def test_a_refused_client_that_is_gone_raises_nothing_here_either() -> None:
    """Its socket may be closed between our answer and the end of our half."""

    async def refuse() -> None:
        transport = Mock(spec=asyncio.Transport)
        transport.is_closing.return_value = False
        transport.get_extra_info.return_value = None
        transport.write_eof.side_effect = OSError(107, "not connected")
        client = Front(Mock(limits=QUICK, connections=set(), bodies=Bodies()))
        client.connection_made(transport)
        client.refuse(invalid("it is none"))
        transport.write.assert_called_once()

    asyncio.run(refuse())


def test_one_connection_that_fails_takes_no_clock_from_the_others() -> None:
    failed: list[dict[str, Any]] = []
    odd = Odd(says(whole()))
    with gate_over(handle("alpha", odd), limits=QUICK) as odds, connect(odds.port) as broken:
        odds.loop.set_exception_handler(lambda loop, context: failed.append(context))
        (client,) = eventually(lambda: list(odds.gate.connections))
        client.tick = Mock(side_effect=RuntimeError("broken"))
        assert broken.recv(1) == b""
        with connect(odds.port) as sock:
            sock.sendall(b"GET /")
            assert read_response(sock).status == 408
        assert [str(context["exception"]) for context in failed] == ["broken"]
    odd.close()


# ── what a slot's edge has from its library ─────────────────────────────────────────────────────────────────────────

SMALL = Limits(header_bytes=4096, body_bytes=2**20)
POST = b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode()


@pytest.mark.parametrize(
    "flood", [b"0\r\nx: " + b"y" * 100_000, b"0\r\n" + b"x: y\r\n" * 20_000, b"1;" + b"z" * 100_000]
)
def test_a07_trailers_and_names_of_chunks_have_an_end_too(flood: bytes) -> None:
    odd = Odd(says(whole()))
    with gate_over(handle("alpha", odd), limits=SMALL) as odds, connect(odds.port) as sock:
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(flood), 8192):
                sock.sendall((b"" if at else POST) + flood[at : at + 8192])
        assert read_response(sock).status == 431
    odd.close()


def test_many_requests_in_one_write_are_no_large_head() -> None:
    """What is in the buffer of one read is of several requests."""
    odd = Odd(says(whole(b"{}")))
    one = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" % CHAT.encode() + b"x" * 1000
    with gate_over(handle("alpha", odd), limits=SMALL) as odds, connect(odds.port) as sock:
        said = b""
        for piece, count in (((one * 7)[:-1], 6), (b"x", 7)):
            sock.sendall(piece)
            while said.count(b"HTTP/1.1 ") < count:
                said += sock.recv(65536)
        assert said.count(b"HTTP/1.1 200 ") == 7
    odd.close()


def test_a_tunnel_is_refused() -> None:
    odd = Odd(says(whole()))
    with gate_over(handle("alpha", odd)) as odds:
        assert raw(odds.port, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n").status == 405
        assert raw(odds.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status == 200
    odd.close()


def test_many_upgrades_that_nobody_offers_in_one_write() -> None:
    odd, count = Odd(says(whole())), 700
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    with gate_over(handle("alpha", odd)) as odds, connect(odds.port) as sock:
        sock.sendall(one * count)
        said = b""
        while said.count(b"HTTP/1.1 200 OK") < count:
            data = sock.recv(2**20)
            assert data, "the connection has ended"
            said += data
    odd.close()


def held(go: threading.Event) -> Odd:
    """A replica that answers once it may."""

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        while True:
            odd.request(sock)
            go.wait(30)
            sock.sendall(whole())

    return Odd(play)


def read_until(sock: socket.socket, said: bytes, end: bytes, count: int = 1) -> bytes:
    while said.count(end) < count:
        data = sock.recv(2**16)
        assert data, said
        said += data
    return said


ONE = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}" % CHAT.encode()


@pytest.mark.parametrize("cut", [20, -1], ids=["head", "body"])
def test_no_clock_runs_for_a_request_that_is_not_read(cut: int) -> None:
    """More requests wait than are read at once: that the next one has no end yet is not its client's fault."""
    limits, go = Limits(header_timeout=2.0, body_timeout=2.0), threading.Event()
    odd = held(go)
    with gate_over(handle("alpha", odd), limits=limits) as odds, connect(odds.port) as sock:
        sock.sendall(ONE * 10 + ONE[:cut])
        eventually(lambda: odd.asked)
        go.wait(3.0)  # longer than both clocks
        go.set()
        said = read_until(sock, b"", HELLO, 10)
        threading.Event().wait(0.3)  # some ticks: the clocks begin anew
        sock.sendall(ONE[cut:])
        assert read_until(sock, said, HELLO, 11).count(b"HTTP/1.1 200 OK") == 11
    odd.close()


def test_a_client_is_told_to_continue_between_answers() -> None:
    go = threading.Event()
    odd = held(go)
    with gate_over(handle("alpha", odd), limits=Limits(body_timeout=1.0)) as odds, connect(odds.port) as sock:
        sock.sendall(ONE + ONE[:-4] + b"Expect: 100-continue\r\n\r\n")
        eventually(lambda: odd.asked)
        go.wait(2.0)  # it waits for us: its body is not late
        go.set()
        said = read_until(sock, b"", b"100 Continue\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200 OK") and said.endswith(HELLO + b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(b"{}")
        assert read_until(sock, said, HELLO, 2).count(b"HTTP/1.1 200 OK") == 2
    odd.close()


def test_l4_who_asks_much_and_reads_nothing_waits() -> None:
    """Pipelined requests whose answers nobody reads are answered one after the other, or not at all."""
    odd = Odd(says(whole(b"x" * 200_000)))
    with gate_over(handle("alpha", odd)) as odds, reading_nothing(odds.port) as sock:
        sock.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}" % CHAT.encode() * 100)
        (client,) = eventually(lambda: list(odds.gate.connections))
        eventually(lambda: client._stuck)
        sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            sock.recv(1)  # time for more to be asked
        assert len(odd.asked) < 10 and client.transport.get_write_buffer_size() < 2**20
        sock.settimeout(30)
        got = 0
        while got < 50 * 200_000:
            got += len(sock.recv(2**20))
    odd.close()


def test_l4_answers_of_our_own_wait_too() -> None:
    """No replica is asked, and nothing of it is paused: the next request is."""
    odd, count = Odd(says(whole())), 3000
    with gate_over(handle("alpha", odd)) as odds, reading_nothing(odds.port) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * count)
        (client,) = eventually(lambda: list(odds.gate.connections))
        eventually(lambda: client._stuck)
        for _ in range(100):  # turns of the loop, in each of which one more could be answered
            assert raw(odds.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status == 200
        assert client.transport.get_write_buffer_size() < 2**18
        sock.settimeout(30)
        answers, end = 0, b""
        while answers < count:
            data = end + sock.recv(2**20)
            answers, end = answers + data.count(b"HTTP/1.1 200 OK"), data[-14:]
    odd.close()


def test_l4_a_slot_writes_no_faster_than_its_client_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-pressure reaches the replica: what the client does not read is not taken from there."""
    monkeypatch.setattr(front.edge, "bound_kernel_buffers", lambda *given: None)  # Linux' own clock of a stuck reader
    sent = 0

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        nonlocal sent
        odd.request(sock)
        sock.sendall(chunked(end=False))
        piece = b"%x\r\n%b\r\n" % (2**16, b"x" * (2**16 - 1) + b"\n")
        sock.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            while sent < 100 * 2**20:
                sock.sendall(piece)
                sent += 2**16
        sock.settimeout(30)
        sock.recv(1)

    odd = Odd(play)
    with gate_over(handle("alpha", odd), limits=Limits(read_stall=3.0)) as odds, reading_nothing(odds.port) as sock:
        sock.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}" % CHAT.encode())
        (client,) = eventually(lambda: list(odds.gate.connections))
        eventually(lambda: client._stuck)
        assert client.transport.get_write_buffer_size() < 2**20
        eventually(lambda: not odds.gate.connections)  # who reads nothing for so long is dropped, and so is its work
        eventually(lambda: not odds.live(odd).load.requests)
        assert sent < 20 * 2**20, "the kernels' buffers, and no more"
    odd.close()
