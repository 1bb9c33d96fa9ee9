"""What a replica may answer, byte by byte: what HTTP allows passes, what it does not costs no client anything."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from llmctl.gateway import upstream
from llmctl.gateway.probing import Got
from tests.conftest import eventually
from tests.gateway.odd import CHAT, HELLO, Odd, Odds, Play, chunked, dies_after, gate_over, handle, says, whole
from tests.runner.fake_slot import connect, dechunk, post, raw, read_response

BODY = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def odds() -> Iterator[Callable[..., Odds]]:
    """odds(play, …) → a gate over replicas of one handle, which do that."""
    open_: list[Any] = []

    def start(*plays: Play) -> Odds:
        replicas = [Odd(play) for play in plays]
        made = gate_over(handle("alpha", *replicas))
        open_.extend([made, *replicas])
        found = made.__enter__()
        found.replicas = replicas  # type: ignore[attr-defined]
        return found

    yield start
    for one in open_:
        one.close() if isinstance(one, Odd) else one.__exit__(None, None, None)


def ask(odds: Odds, **fields: Any) -> httpx.Response:
    return httpx.post(odds.url, json={**BODY, **fields}, timeout=30, trust_env=False)


Start = Callable[..., Any]


def test_informational_answers_before_the_real_one_are_dropped(odds: Start) -> None:
    before = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"
    answer = ask(odds(says(before + whole())))
    assert answer.status_code == 200 and answer.content == HELLO and "link" not in answer.headers


def test_an_answer_to_head_has_no_body_and_the_next_request_its_own(odds: Start) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        while True:
            is_head = odd.request(sock).startswith(b"HEAD")
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n" if is_head else whole())

    found = odds(play)
    found.gate.jobs.made(None, b'{"job_id":"1"}', "alpha", f"here:{found.replicas[0].port}")
    with connect(found.port) as sock:
        sock.sendall(b"HEAD /v1/jobs/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = sock.recv(65536)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n") and head.endswith(b"\r\n\r\n")
        assert b"content-length: 9\r\n" in head
        sock.sendall(post(CHAT, b"{}"))
        assert read_response(sock).body == HELLO


def test_chunks_pass_with_their_extensions_and_trailers_left_behind(odds: Start) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
    found = odds(says(head + b"3;a=b\r\none\r\n3\r\ntwo\r\n0\r\nx-sum: 7\r\n\r\n"))
    for _ in range(2):
        response = raw(found.port, post(CHAT, b"{}"))
        assert dechunk(response.body) == b"onetwo" and b"x-sum" not in response.body
        assert "trailer" not in response.headers
    assert found.replicas[0].connections == 1


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_without_a_body_ends_with_its_head(odds: Start, status: bytes) -> None:
    found = odds(says(b"HTTP/1.1 " + status + b"\r\n\r\n"))
    with connect(found.port) as sock:
        for _ in range(2):
            sock.sendall(post(CHAT, b"{}"))
            assert sock.recv(65536).endswith(b"\r\n\r\n")
    assert len(found.replicas[0].asked) == 2


def test_what_ends_with_its_connection_is_whole(odds: Start) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall ")
        sock.sendall(b"of it")
        sock.close()

    found = odds(play)
    with httpx.Client(trust_env=False) as client:
        assert [client.post(found.url, json=BODY).text for _ in range(2)] == ["all of it"] * 2
    assert not found.live(found.replicas[0]).standing.failures


def test_a_kept_connection_that_had_been_closed_costs_nothing(odds: Start) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        sock.sendall(whole())
        odd.request(sock)  # and closes as it comes

    found = odds(play)
    assert [ask(found).status_code for _ in range(3)] == [200] * 3
    (one,) = found.replicas
    assert len(one.asked) == 5 and one.connections == 3
    assert not found.live(one).standing.failures and not found.logged[1]["retries"]


def test_a_kept_connection_on_which_an_answer_had_begun_is_a_failure(odds: Start) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        sock.sendall(whole())
        odd.request(sock)
        sock.sendall(b"HTTP/1.1 200 O")
        sock.close()

    found = odds(play)
    assert [ask(found).status_code for _ in range(2)] == [200, 503]
    (one,) = found.replicas
    assert len(one.asked) == 2, "it was not asked again"
    assert found.live(one).standing.failures == 1


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * upstream.HEAD,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (upstream.HEAD // 6),
    ],
)
def test_what_is_no_answer_sends_the_request_to_another_replica(odds: Start, said: bytes) -> None:
    found = odds(says(said), says(whole()))
    assert [ask(found).json() for _ in range(4)] == [httpx.Response(200, content=HELLO).json()] * 4
    assert found.live(found.replicas[0]).standing.why


def test_without_another_one_it_is_told_what_was_wrong(odds: Start) -> None:
    answer = ask(odds(says(b"SSH-2.0-OpenSSH_9.2\r\n")))
    assert answer.status_code == 503 and "not HTTP" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"] and "SSH" not in answer.text


def test_a_second_answer_behind_the_first_reaches_nobody(odds: Start) -> None:
    evil = whole(b'{"evil":1}')
    found = odds(says(whole() + evil))
    with httpx.Client(trust_env=False, timeout=30) as client:  # its next answer is what follows on its connection
        assert [client.post(found.url, json=BODY).content for _ in range(3)] == [HELLO] * 3
    assert found.replicas[0].connections == 3, "such a connection is not used again"


def test_a_listener_is_told_of_one_answer() -> None:
    class Counting(Got):
        began_times = 0

        def began(self, status: int, headers: upstream.Headers, length: int | None) -> None:
            super().began(status, headers, length)
            self.began_times += 1

    async def ask(port: int) -> tuple[tuple[int, bytes], int, upstream.Upstream]:
        loop = asyncio.get_running_loop()
        pool = upstream.Pool(lambda made: loop.create_connection(made, "127.0.0.1", port))
        got, one = Counting(), await pool.fresh()
        one.send(b"GET / HTTP/1.1\r\n\r\n", got)
        return await asyncio.wait_for(got.done, 30), got.began_times, one

    odd = Odd(says(whole() + whole(b'{"evil":1}')))
    answer, times, one = asyncio.run(ask(odd.port))
    assert (answer, times, one.closed) == ((200, HELLO), 1, True)
    odd.close()


def test_a_connection_that_rests_for_long_is_closed(odds: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        sock.sendall(whole())
        with contextlib.suppress(OSError):
            sock.recv(1)
        ended.set()

    found = odds(play)
    assert ask(found).content == HELLO
    assert not ended.wait(1.0), "it is kept at first"
    monkeypatch.setattr(upstream, "IDLE", 0.0)
    assert ended.wait(20.0) and not found.live(found.replicas[0]).pool._idle


def test_a_replica_that_speaks_unasked_loses_its_connection(odds: Start) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        sock.sendall(whole())
        if number == 1:
            sock.recv(0)
            eventually(lambda: found.live(odd).pool._idle)
            sock.sendall(whole(b'{"evil":1}'))
        odd.request(sock)
        sock.sendall(whole())

    found = odds(play)
    assert ask(found).content == HELLO
    eventually(lambda: not found.live(found.replicas[0]).pool._idle, within=10.0)  # else it ends by itself
    assert ask(found).content == HELLO and found.replicas[0].connections == 2


@pytest.mark.parametrize(
    "begun", [b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n{", chunked(b"{", kind=b"application/json", end=False)]
)
def test_an_answer_that_breaks_is_cut_and_never_asked_for_again(odds: Start, begun: bytes) -> None:
    found = odds(dies_after(begun), dies_after(begun))
    with pytest.raises(httpx.RemoteProtocolError):
        ask(found)
    assert sum(len(one.asked) for one in found.replicas) == 1
    eventually(lambda: found.logged)
    assert found.logged[0]["status"] == 502


def test_a_short_answer_that_breaks_is_taken_back_and_another_replica_asked(odds: Start) -> None:
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\nx-first: 1\r\n\r\n{"
    found = odds(dies_after(begun), says(whole()))
    answer = ask(found)
    assert answer.content == HELLO and "x-first" not in answer.headers
    assert ask(odds(dies_after(begun))).status_code == 503


def test_one_that_is_busy_sends_on_and_the_last_ones_word_is_passed(odds: Start) -> None:
    full = whole(b'{"error":{}}', b"retry-after: 7", status=b"429 Too Many Requests")
    found = odds(says(full), says(whole()))
    assert [ask(found).status_code for _ in range(3)] == [200] * 3
    found = odds(says(full), says(full))
    answer = ask(found)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert [len(one.asked) for one in found.replicas] == [1, 1]
    assert not found.live(found.replicas[0]).standing.failures, "busy is not broken"


def test_a_replica_learns_no_key_and_nothing_of_the_clients_connection(odds: Start) -> None:
    found = odds(says(whole(HELLO, b"connection: keep-alive, x-own", b"keep-alive: timeout=5", b"x-kept: 1")))
    sent = {
        "authorization": "Bearer of-the-client", "x-api-key": "of-the-client", "cookie": "a=b", "x-hop": "1",
        "connection": "keep-alive, x-hop", "te": "trailers", "x-passed": "1", "x-llmctl-usage": "7",
        "proxy-authorization": "Basic x",
    }  # fmt: skip
    answer = httpx.post(found.url, json=BODY, headers=sent, trust_env=False)
    (asked,) = found.replicas[0].asked
    head = asked.partition(b"\r\n\r\n")[0].lower()
    assert b"of-the-client" not in head and b"cookie" not in head and b"x-hop" not in head and b"\r\nte:" not in head
    assert b"x-passed: 1" in head and head.count(b"authorization: bearer of-the-slot") == 1 and b"proxy" not in head
    assert head.count(b"x-llmctl-usage: 1") == head.count(b"x-llmctl-usage") == 1
    assert answer.headers["x-kept"] == "1" and "keep-alive" not in answer.headers
