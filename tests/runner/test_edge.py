"""The HTTP edge: half requests, malformed ones, slow readers, drains; over a slot without an engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import select
import socket
import time
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.server import ServerState

from llmctl.domain import Limits
from llmctl.runner import edge, intake
from tests.conftest import eventually
from tests.runner.fake_slot import (
    GOOD,
    FakeService,
    FakeSlot,
    connect,
    post,
    raw,
    read_response,
    serve,
)  # fmt: skip

CHAT = "/v1/chat/completions"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
REQUEST = post(CHAT, json.dumps(GOOD).encode())
STREAM = post(CHAT, json.dumps({**GOOD, "stream": True}).encode())
QUICK = Limits(header_timeout=0.5, body_timeout=0.5, keep_alive=1.0, read_stall=1.0)


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve(FakeService(QUICK)) as slot:
        yield slot


def closed(sock: socket.socket) -> bool:
    """Whether the server ends the connection without sending more."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


# ── connections that live on ────────────────────────────────────────────────────────────────────────────────────────


def test_a_connection_serves_many_requests_also_after_errors(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        for request, status in [
            (REQUEST, 200),
            (post("/nope", b"x" * 100_000), 404),
            (STREAM, 200),
            (post(CHAT, b"{"), 400),
        ]:
            sock.sendall(request)
            response = read_response(sock)
            assert (response.status, response.headers.get("connection")) == (status, None)


def test_pipelined_requests_are_answered_in_order(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        sock.sendall(HEALTH + post("/nope", b"abc") + HEALTH)
        data = b""
        while data.count(b"HTTP/1.1 ") < 3 or not data.endswith(b"}"):
            data += sock.recv(65536)
        assert [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


def test_head_and_http_1_0(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        sock.sendall(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + HEALTH)
        data = b""
        while data.count(b"\r\n\r\n") < 2:
            data += sock.recv(65536)
        assert data.split(b"\r\n\r\n")[1].startswith(b"HTTP/1.1 200")  # no body in between
    response = raw(slot.port, STREAM.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert response.status == 200 and "transfer-encoding" not in response.headers


def test_an_upgrade_that_is_not_offered_is_ignored(slot: FakeSlot, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    assert raw(slot.port, post(CHAT, json.dumps(GOOD).encode(), *upgrade)).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_error_is_answered_after_the_body_so_that_it_can_be_read(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        sock.sendall(post("/nope", b"x" * 2**24, "Connection: close"))
        assert read_response(sock).status == 404 and closed(sock)


def test_expect_100_continue(slot: FakeSlot) -> None:
    head, _, body = post(CHAT, json.dumps(GOOD).encode(), "Expect: 100-continue").partition(b"\r\n\r\n")
    with connect(slot.port) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(body)
        assert read_response(sock).status == 200
    too_large = raw(slot.port, post(CHAT, b"", "Expect: 100-continue", "Content-Length: 99999999999"))
    assert too_large.status == 413


# ── half a request ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_head_that_drips_is_ended(slot: FakeSlot) -> None:
    """The time is for the whole head, however many bytes come."""
    with connect(slot.port) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for _ in range(400):
            sock.sendall(b"x")
            if select.select([sock], [], [], 0.02)[0]:
                break
        else:
            raise AssertionError("it dripped on for 8 s")
        response = read_response(sock)
        assert response.status == 408 and response.json()["error"]["code"] == "request_timeout"
        assert closed(sock)


def test_a_request_that_came_in_two_parts_may_take_its_time() -> None:
    """The clock of the request stops with its last byte."""
    with serve(FakeService(QUICK, ["x"] * 3, pause=0.5)) as slot:
        for cut in (10, -10):
            with connect(slot.port) as sock:
                sock.sendall(REQUEST[:cut])
                time.sleep(0.1)
                sock.sendall(REQUEST[cut:])
                assert read_response(sock).status == 200


def test_half_a_head_behind_an_answer_is_ended(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        sock.sendall(REQUEST + HEALTH[:10])
        assert [read_response(sock).status, read_response(sock).status] == [200, 408]


def test_a_body_that_stops_is_ended_and_one_that_moves_is_not(slot: FakeSlot) -> None:
    assert raw(slot.port, REQUEST[:-5]).status == 408
    with connect(slot.port) as sock:
        for end in range(-40, 0, 10):
            sock.sendall(REQUEST[:-40] if end == -40 else REQUEST[end - 10 : end])
            time.sleep(QUICK.body_timeout * 0.6)
        sock.sendall(REQUEST[-10:])
        assert read_response(sock).status == 200


def test_a_body_that_stops_after_its_answer_ends_the_connection(slot: FakeSlot) -> None:
    """No second answer to a request that was answered already."""
    with connect(slot.port) as sock:
        sock.sendall(post("/v1/models", b"abc", "Content-Length: 90").replace(b"POST", b"GET"))
        assert read_response(sock).status == 200
        assert closed(sock)


def test_a_client_that_ends_in_the_middle_leaves_nothing(slot: FakeSlot) -> None:
    for cut in (1, 30, len(REQUEST) - 1):
        with connect(slot.port) as sock:
            sock.sendall(REQUEST[:cut])
            sock.shutdown(socket.SHUT_WR)
            assert closed(sock)
    eventually(lambda: not slot.server.server_state.connections)
    assert slot.service.seen == []


def test_a_silent_connection_is_closed(slot: FakeSlot) -> None:
    with connect(slot.port) as sock, connect(slot.port) as used:
        used.sendall(HEALTH)
        assert read_response(used).status == 200
        began = time.monotonic()
        assert closed(sock) and closed(used)
        assert time.monotonic() - began < 4  # uvicorn's own is 5


# ── what is no HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"GET /health\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX y: z\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
        post(CHAT, b"zz\r\n", "Transfer-Encoding: chunked"), post(CHAT, b"5\r\nabcdefgh", "Transfer-Encoding: chunked"),
    ],
)  # fmt: skip
def test_what_is_no_http_gets_a_json_error_that_repeats_nothing(slot: FakeSlot, data: bytes) -> None:
    response = raw(slot.port, data)
    assert response.status == 400 and response.closed
    error = response.json()["error"]
    assert error["code"] == "invalid_http" and "b'" not in error["message"]


def test_a_body_in_one_byte_chunks_is_refused(slot: FakeSlot) -> None:
    tiny = b"1\r\nx\r\n" * 3 * intake.PIECES
    response = raw(slot.port, post(CHAT, tiny, "Transfer-Encoding: chunked"))
    assert response.status == 400 and "chunks" in response.json()["error"]["message"]
    fair = json.dumps({**GOOD, "user": "x" * 200_000}).encode()
    pieces = b"".join(b"14\r\n" + fair[at : at + 20] + b"\r\n" for at in range(0, len(fair) // 20 * 20, 20))
    pieces += (
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(fair) % 20, fair[len(fair) // 20 * 20 :]) if len(fair) % 20 else b"0\r\n\r\n"
    )
    assert raw(slot.port, post(CHAT, pieces, "Transfer-Encoding: chunked")).status == 200


def test_a_refused_client_can_read_why_and_is_cut_if_it_stays(slot: FakeSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "LINGER", 0.3)
    with connect(slot.port) as sock:
        sock.sendall(post(CHAT, b"x" * 100_000, "Content-Length: 99999999999"))
        assert read_response(sock).status == 413
        eventually(lambda: not slot.server.server_state.connections)


def test_what_a_refused_client_still_sends_is_read_and_forgotten() -> None:
    with serve(FakeService(Limits(body_bytes=2**20))) as slot, connect(slot.port) as sock:
        sock.sendall(post(CHAT, b"", "Transfer-Encoding: chunked"))
        for _ in range(32):
            sock.sendall(b"100000\r\n" + b"x" * 2**20 + b"\r\n")
        assert read_response(sock).status == 413


def test_a_bad_body_behind_a_request_that_needs_none_gets_one_answer(
    slot: FakeSlot, caplog: pytest.LogCaptureFixture
) -> None:
    request = post("/v1/models", b"zz\r\n", "Transfer-Encoding: chunked").replace(b"POST", b"GET")
    with connect(slot.port) as sock:
        sock.sendall(request)
        data = b""
        while more := sock.recv(65536):
            data += more
    assert data.startswith(b"HTTP/1.1 400") and data.count(b"HTTP/1.1") == 1
    eventually(lambda: not slot.server.server_state.tasks)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_refused_client_that_is_gone_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket may be closed between our answer and the end of our half."""

    async def refuse() -> None:
        config = uvicorn.Config(FakeService(), http=edge.make_protocol(QUICK), ws="none")  # type: ignore[arg-type]
        protocol = edge.make_protocol(QUICK)(config, ServerState(), {})
        transport = Mock(is_closing=lambda: False, write_eof=Mock(side_effect=OSError(107, "not connected")))
        transport.get_extra_info.return_value = None
        protocol.connection_made(transport)
        protocol.data_received(b"hello\r\n\r\n")
        transport.write.assert_called_once()
        protocol.connection_lost(None)

    asyncio.run(refuse())


def test_the_kernel_is_told_of_the_bounds(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        sock.sendall(HEALTH)
        assert read_response(sock).status == 200
        (connection,) = slot.server.server_state.connections
        served = connection.transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert served.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * edge.SEND_BUFFER
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * QUICK.read_stall


def test_a_refused_connection_survives_a_server_shutdown(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        sock.sendall(b"hello\r\n\r\n")
        assert read_response(sock).status == 400
        for connection in list(slot.server.server_state.connections):
            connection.shutdown()


def test_the_body_limit_is_of_one_request() -> None:
    with serve(FakeService(Limits(body_bytes=len(REQUEST) * 3 // 2))) as slot, connect(slot.port) as sock:
        for _ in range(4):
            sock.sendall(REQUEST)
            assert read_response(sock).status == 200


def test_the_bodies_of_all_requests_together_are_bounded() -> None:
    body = json.dumps(GOOD).encode()
    head = REQUEST[: -len(body)]
    with serve(FakeService(Limits(bodies_bytes=2 * len(body)))) as slot, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(slot.port)) for _ in range(2)]
        for sock in held:
            sock.sendall(REQUEST[:-1])  # all but the last byte: held, and not answered yet
        eventually(lambda: len(slot.server.server_state.connections) == 2)
        time.sleep(0.1)  # their bytes are read
        response = raw(slot.port, REQUEST)
        assert response.status == 503 and response.headers["retry-after"] == "1"
        assert response.json()["error"]["code"] == "too_many_bodies"
        held[0].sendall(REQUEST[-1:])
        assert read_response(held[0]).status == 200
        assert raw(slot.port, REQUEST).status == 200  # what was answered counts no more
        held[1].close()
        eventually(lambda: raw(slot.port, head + body).status == 200)


# ── too many ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_too_many_connections_get_503_and_health_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "SPARE", 3)
    with serve(FakeService(Limits(connections=5))) as slot, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connect(slot.port)).sendall(HEALTH[:20])
        eventually(lambda: len(slot.server.server_state.connections) == 5)
        response = raw(slot.port, REQUEST)
        assert response.status == 503 and response.headers["retry-after"] == "1" and response.closed
        assert response.json()["error"]["code"] == "too_many_connections"
        assert raw(slot.port, HEALTH).status == 200
        eventually(lambda: len(slot.server.server_state.connections) == 5)
        for _ in range(3):
            stack.enter_context(connect(slot.port)).sendall(HEALTH[:20])
        eventually(lambda: len(slot.server.server_state.connections) == 8)
        assert closed(stack.enter_context(connect(slot.port)))


# ── slow readers ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reader_that_stops_is_cut_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "bound_kernel_buffers", lambda *args: None)  # by us, not by the kernel
    words = ["x" * 1000] * 20_000
    with serve(FakeService(QUICK, words)) as slot, connect(slot.port) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(STREAM)
        assert raw(slot.port, STREAM).body.count(b"data: ") > 20_000
        eventually(lambda: slot.service.active == 0 and not slot.server.server_state.connections)


def test_more_than_the_write_buffer_at_once_is_cut() -> None:
    limits = Limits(write_buffer=2**20)
    with serve(FakeService(limits, ["x" * 2**24, "y"])) as slot, connect(slot.port) as lazy:
        lazy.sendall(STREAM)
        eventually(lambda: slot.service.seen and slot.service.active == 0)


def test_a_large_answer_reaches_a_reader_that_reads() -> None:
    with serve(FakeService(Limits(write_buffer=2**20), ["x" * 2**24])) as slot:
        assert len(raw(slot.port, REQUEST).body) > 2**24


# ── draining ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_while_draining_every_answer_closes() -> None:
    with serve(FakeService(words=["a"] * 20, pause=0.05)) as slot:
        with connect(slot.port) as kept, connect(slot.port) as streaming, connect(slot.port) as waiting:
            kept.sendall(HEALTH)
            assert read_response(kept).headers.get("connection") is None
            streaming.sendall(STREAM)
            head = streaming.recv(4096)
            waiting.sendall(REQUEST)
            eventually(lambda: len(slot.service.seen) == 2)
            slot.drain.draining = True
            kept.sendall(HEALTH)
            assert read_response(kept).headers["connection"] == "close" and closed(kept)
            assert b"connection" not in head.lower()
            rest = head
            while not rest.endswith(b"0\r\n\r\n"):
                rest += streaming.recv(4096)
            assert rest.count(b'"content":"a"') == 20 and b"[DONE]" in rest
            assert read_response(waiting).headers["connection"] == "close" and closed(waiting)
        slot.drain.draining = False
        assert raw(slot.port, HEALTH).headers.get("connection") is None
