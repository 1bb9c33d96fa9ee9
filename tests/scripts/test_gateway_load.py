"""The clients of the gateway's benchmark: what they count, and what they do not hide."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from scripts.benchmarks.gateway_paced import paced, request, whole
from scripts.benchmarks.gateway_streams import CHUNK, MARK, counted

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
STALL = 1.0


@pytest.fixture
def server() -> Iterator[Callable[[bytes], int]]:
    """server(answer) → the port of one that gives it to every request; the fiftieth stalls all of them for a while."""
    listener = socket.create_server(("127.0.0.1", 0))
    busy, asked = threading.Lock(), [0]

    def answering(sock: socket.socket, answer: bytes) -> None:
        with sock:
            while sock.recv(65536):
                with busy:
                    asked[0] += 1
                    if asked[0] == 50:
                        time.sleep(STALL)
                sock.sendall(answer)

    def accepting(answer: bytes) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answering, args=(sock, answer), daemon=True).start()

    def start(answer: bytes) -> int:
        threading.Thread(target=accepting, args=(answer,), daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_stall_delays_what_was_due_in_it_though_it_could_not_be_sent(server: Callable[[bytes], int]) -> None:
    """Two connections: a client that only times what it sent would see two slow answers."""
    found = paced(server(ANSWER), request(b"{}"), 100.0, 2.0, 2)
    assert len(found) == 200
    assert sum(latency > 200 for latency in found) >= 60  # of the 80 that were due in its first 0.8 s


def test_an_answer_that_is_none_is_no_latency(server: Callable[[bytes], int]) -> None:
    with pytest.raises(ValueError, match="503"):
        paced(server(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), request(b"{}"), 100.0, 1.0, 2)


def test_an_answer_in_pieces_is_whole_at_its_end() -> None:
    assert [whole(ANSWER[:n]) for n in (10, len(ANSWER) - 1, len(ANSWER))] == [False, False, True]


def test_each_event_of_each_stream_is_counted_once() -> None:
    assert CHUNK.count(MARK) == 1
    over = threading.Event()

    def serve(listening: socket.socket) -> None:
        with contextlib.ExitStack() as open_ones:
            for _ in range(3):
                client = open_ones.enter_context(listening.accept()[0])
                client.sendall(20 * CHUNK)  # and no end
            over.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        events, _, streams = counted(listening.getsockname()[1], "any", 3, 2.0, warm_up=0.0)
        over.set()
        thread.join()
    assert (events, streams) == (60, 3)


def test_a_request_is_whole() -> None:
    head, _, body = request(json.dumps({"a": "é"}).encode()).partition(b"\r\n\r\n")
    assert int(head.lower().split(b"content-length: ")[1]) == len(body)
