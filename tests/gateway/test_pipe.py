"""WebSockets through the gate, and the frames that it counts as they pass."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect as websocket

from llmctl.gateway import pipe
from llmctl.gateway.frames import Frames
from llmctl.gateway.upstream import HEAD as HEAD_LIMIT
from tests.conftest import eventually
from tests.gateway.odd import Odd, dies_after, echo, read, says, silent, whole
from tests.gateway.test_faults import over, stack
from tests.runner.fake_slot import raw, read_response
from tests.runner.sockets import request as handshake

__all__ = ["stack"]
HEAD = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


def frame(data: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    return Frame(opcode, data).serialize(mask=False)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, 10**6])
def test_frames_are_counted_however_they_are_cut(step: int) -> None:
    sizes = (0, 1, 125, 126, 65535, 65536)
    stream = HEAD + b"".join(frame(b"x" * size) for size in sizes) + frame(b"", Opcode.PING) + frame(b"end")
    frames = Frames()
    assert not frames.between, "the handshake comes first"
    for at in range(0, len(stream), step):
        frames.feed(stream[at : at + step])
    assert frames.count == len(sizes) + 1 and frames.between
    frames.feed(frame(b"half")[:-1])
    assert not frames.between


def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/ws"


def test_it_is_counted_by_its_messages_and_bytes_and_leaves_nothing(stack: ExitStack) -> None:
    odds, (one,) = over(stack, echo)
    with websocket(url(odds.port)) as client:
        for text in ("a", "b" * 70_000, "c"):
            client.send(text)
            assert client.recv(30) == text
        assert not odds.live(one).waiting, "it has been answered"
    eventually(lambda: odds.logged)
    row = odds.logged[0]
    assert row["status"] == 101 and row["completion"] == 3 and row["prompt"] >= 70_000 // 4 and row["estimated"]
    assert not odds.live(one).load.requests and not odds.live(one).answering


def test_a_handshake_goes_on_to_a_replica_that_answers(stack: ExitStack) -> None:
    odds, (bad, _) = over(stack, dies_after(), echo)
    for _ in range(2):
        with websocket(url(odds.port)) as client:
            client.send("x")
            assert client.recv(30) == "x"
    assert odds.live(bad).standing.why
    odds, _ = over(stack, dies_after())
    response = raw(odds.port, handshake("/ws"))
    assert response.status == 503 and response.headers["retry-after"] and response.closed


def test_a_handshake_at_one_that_hangs_goes_on_too(stack: ExitStack) -> None:
    odds, (hung, good) = over(stack, silent, echo)
    odds.live(good).load.tokens = 10**6
    found: list[str | bytes] = []

    def talk() -> None:
        with websocket(url(odds.port), open_timeout=30) as client:
            client.send("x")
            found.append(client.recv(30))

    talking = threading.Thread(target=talk)
    talking.start()
    eventually(lambda: hung.asked)
    odds.loop.call_soon_threadsafe(odds.live(hung).hangs, "no answer", odds.loop.time())
    talking.join(30)
    assert found == ["x"]


def test_what_a_slot_refuses_its_client_reads(stack: ExitStack) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno")

    odds, (one,) = over(stack, play)
    response = raw(odds.port, handshake("/ws"))
    assert (response.status, response.body) == (400, b"no")
    eventually(lambda: odds.logged)
    row = odds.logged[0]
    assert (row["status"], row["prompt"], row["completion"]) == (400, 0, 0)
    assert not odds.live(one).load.requests


REFUSED = [
    whole(b"{}", status=b"503 Service Unavailable"),
    whole(b"{}", status=b"429 Too Many Requests"),
    whole(b"{}", status=b"401 Unauthorized"),
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/1.1 no status\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nx: " + b"y" * HEAD_LIMIT,
]


@pytest.mark.parametrize("said", REFUSED, ids=["503", "429", "401", "ssh", "no status", "no end"])
def test_a_handshake_that_one_refuses_goes_to_the_next(stack: ExitStack, said: bytes) -> None:
    odds, (first, second) = over(stack, says(said), echo)
    odds.live(second).load.tokens = 10**6
    with websocket(url(odds.port), open_timeout=30) as client:
        client.send("x")
        assert client.recv(30) == "x"
    eventually(lambda: odds.logged)
    assert first.asked and odds.logged[0]["status"] == 101 and odds.logged[0]["retries"] == 1
    busy = b" 503 " in said or b" 429 " in said
    assert bool(odds.live(first).standing.why) != busy, "busy is not broken"
    assert not odds.live(first).load.requests and not odds.live(first).waiting and not odds.live(first).answering


def test_where_all_are_busy_the_last_ones_word_is_passed_and_logged(stack: ExitStack) -> None:
    full = whole(b"full", b"connection: close", status=b"503 Service Unavailable")
    odds, both = over(stack, dies_after(full), dies_after(full))
    with socket.create_connection(("127.0.0.1", odds.port)) as sock:
        sock.settimeout(30)
        sock.sendall(handshake("/ws"))
        response = read_response(sock)
    assert (response.status, response.body) == (503, b"full")
    eventually(lambda: odds.logged)
    assert [len(one.asked) for one in both] == [1, 1] and odds.logged[0]["status"] == 503


def test_a_refused_key_is_no_word_to_the_client(stack: ExitStack) -> None:
    odds, _ = over(stack, says(whole(b"{}", status=b"401 Unauthorized")))
    response = raw(odds.port, handshake("/ws"))
    assert response.status == 503 and b"llmctl handles sync" in response.body


def test_a_head_that_comes_in_pieces_is_one(stack: ExitStack) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        read(sock)
        for piece in (HEAD[:3], HEAD[3:30], HEAD[30:-1], HEAD[-1:] + frame(b"hello")):
            sock.sendall(piece)
            threading.Event().wait(0.05)

    odds, _ = over(stack, play)
    with socket.create_connection(("127.0.0.1", odds.port)) as sock:
        sock.settimeout(30)
        sock.sendall(handshake("/ws"))
        said = b""
        while data := sock.recv(1000):
            said += data
    assert said == HEAD + frame(b"hello")
    eventually(lambda: odds.logged)
    assert (odds.logged[0]["status"], odds.logged[0]["completion"]) == (101, 1)


def test_one_that_is_silent_at_a_replica_that_hangs_is_closed(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "SILENT", 0.0)
    odds, (one,) = over(stack, echo)
    with websocket(url(odds.port)) as client:
        client.send("x")
        client.recv(30)
        odds.loop.call_soon_threadsafe(odds.live(one).hangs, "no answer", odds.loop.time() + 1)
        with pytest.raises(ConnectionClosed) as ended:
            client.recv(30)
    assert ended.value.rcvd and ended.value.rcvd.code == pipe.AWAY


def test_a_gate_that_ends_waits_for_the_last_word_and_closes(stack: ExitStack) -> None:
    answer = threading.Event()

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        read(sock)
        sock.sendall(HEAD)
        sock.recv(1000)
        answer.wait(30)
        sock.sendall(frame(b"the answer"))
        sock.recv(1000)

    odds, _ = over(stack, play)
    with socket.create_connection(("127.0.0.1", odds.port)) as sock:
        sock.settimeout(30)
        sock.sendall(handshake("/ws"))
        sock.recv(1000)
        sock.sendall(b"a question")
        (front,) = eventually(lambda: [one for one in odds.gate.connections if one.work])
        odds.loop.call_soon_threadsafe(front.shutdown)
        sock.settimeout(pipe.QUIET + 0.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        answer.set()
        sock.settimeout(30)
        assert sock.recv(1000) == frame(b"the answer")
        closing = sock.recv(1000)
        assert closing[0] == 0x88 and closing[2:4] == pipe.AWAY.to_bytes(2, "big") and sock.recv(1) == b""


def test_what_a_slot_does_not_read_stays_with_the_client(stack: ExitStack) -> None:
    stop = threading.Event()

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        read(sock)
        sock.sendall(HEAD)
        stop.wait(30)

    odds, _ = over(stack, play)
    with socket.create_connection(("127.0.0.1", odds.port)) as sock:
        sock.sendall(handshake("/ws"))
        assert sock.recv(1000) == HEAD
        sock.settimeout(2.0)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 200 * 2**20:
                sent += sock.send(b"x" * 2**16)
        (front,) = odds.gate.connections
        held = front.work._upstream.transport.get_write_buffer_size()  # type: ignore[union-attr]
        assert held < 2**20, "what is not read waits in the client's own buffers"
        stop.set()


def test_bytes_before_the_handshake_is_answered_are_kept_and_bounded(stack: ExitStack) -> None:
    odds, (one,) = over(stack, echo)
    with socket.create_connection(("127.0.0.1", odds.port)) as sock:
        sock.settimeout(30)
        early = Frame(Opcode.TEXT, b"early").serialize(mask=True)
        sock.sendall(handshake("/ws") + early)
        said = b""
        while b"early" not in said:
            said += sock.recv(1000)
    one.play = silent
    with socket.create_connection(("127.0.0.1", odds.port)) as sock:
        sock.settimeout(30)
        sock.sendall(handshake("/ws"))
        with pytest.raises(ConnectionError):
            for _ in range(200):
                sock.sendall(b"x" * 2**16)
