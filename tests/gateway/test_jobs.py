"""Jobs through the gate: each is read from the slot that made it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llmctl.errors import RequestError
from llmctl.gateway import jobs
from llmctl.gateway.jobs import Jobs
from tests.gateway.odd import Odd, Odds, Play, gate_over, handle, whole

JOB = {"model": "beta", "prompt": "hi", "max_tokens": 3}
ID = "a/b ü"
PATH = "/v1/jobs/a%2Fb%20%C3%BC/stream"


def worker(name: bytes, id: str = ID) -> Play:
    """Makes jobs of one name, whose answer comes in two pieces, and streams its own."""

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        while True:
            made = odd.request(sock).startswith(b"POST")
            answer = whole(json.dumps({"job_id": id}).encode() if made else name)
            sock.sendall(answer[:-5])
            threading.Event().wait(0.05)
            sock.sendall(answer[-5:])

    return play


@pytest.fixture
def workers() -> Iterator[list[Odd]]:
    found = [Odd(worker(name)) for name in (b"first", b"second", b"third")]
    yield found
    for one in found:
        one.close()


def get(odds: Odds, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{odds.port}{path}", timeout=30, trust_env=False)


def make(odds: Odds, **fields: Any) -> None:
    made = httpx.post(f"http://127.0.0.1:{odds.port}/v1/jobs", json={**JOB, **fields}, timeout=30, trust_env=False)
    assert made.json() == {"job_id": ID}


def test_a_job_is_read_from_the_slot_that_made_it(workers: list[Odd]) -> None:
    first, second, third = workers
    with gate_over(handle("alpha", first), handle("beta", second, third)) as odds:
        odds.live(second).load.tokens = 10**6
        make(odds)
        odds.live(second).load.tokens, odds.live(third).load.tokens = 0, 10**6
        assert get(odds, PATH).text == "third"
        make(odds)  # its name is free again, and another slot has it
        assert get(odds, PATH).text == "second" and not first.asked
        make(odds, model="alpha")
        assert get(odds, PATH).text == "first"


def test_a_job_that_nobody_made_is_asked_of_no_slot(workers: list[Odd]) -> None:
    with gate_over(handle("alpha", workers[0])) as odds:
        answer = get(odds, PATH)
        assert answer.status_code == 404 and "no such job" in answer.json()["message"]
        assert not workers[0].asked


def test_a_job_whose_slot_fails_is_asked_of_no_other(workers: list[Odd]) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        if odd.request(sock).startswith(b"POST"):
            sock.sendall(whole(json.dumps({"job_id": ID}).encode()))

    first, second, _ = workers
    first.play = play
    with gate_over(handle("alpha", first, second)) as odds:
        odds.live(second).load.tokens = 10**6
        make(odds, model="alpha")
        assert get(odds, PATH).status_code == 503 and not second.asked


def test_the_jobs_of_a_key_are_its_own_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MOST", 2)
    known = Jobs()
    for nothing in (b"", b"[]", b"{}", b"\xff"):
        known.made("ann", nothing, "alpha", "here:1")
    known.made("ann", b'{"job_id":"j"}', "alpha", "here:1")
    assert known.find("ann", "/v1/jobs/j/stream") == ("alpha", "here:1")
    for key in (None, "bob"):
        with pytest.raises(RequestError, match="no such job"):
            known.find(key, "/v1/jobs/j/stream")
    known.made("bob", b'{"job_id":"j"}', "alpha", "here:2")
    known.made("ann", b'{"job_id":"j"}', "alpha", "here:3")
    known.made("ann", b'{"job_id":"k"}', "alpha", "here:3")
    assert known.find("ann", "/v1/jobs/j") == ("alpha", "here:3") and known.find("ann", "/v1/jobs/k")
    with pytest.raises(RequestError):
        known.find("bob", "/v1/jobs/j")
