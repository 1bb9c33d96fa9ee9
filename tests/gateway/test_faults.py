"""Replicas that fail in every way, over a gate in this process: what their clients see, and what is asked of whom."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from llmctl.gateway import probing, relay
from llmctl.gateway.probing import watch
from tests.conftest import eventually
from tests.gateway.odd import HELLO, Odd, Odds, Play, chunked, dies_after, gate_over, handle, says, silent, whole

HI = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}], "stream": True}
HALF = (b'data: {"n":1}\n\n', b'data: {"n":2}\n\nda', b'ta: {"half')


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def over(stack: ExitStack, *plays: Play) -> tuple[Odds, list[Odd]]:
    replicas = [Odd(play) for play in plays]
    for one in replicas:
        stack.callback(one.close)
    return stack.enter_context(gate_over(handle("alpha", *replicas))), replicas


def ask(odds: Odds, path: str = "/v1/chat/completions") -> httpx.Response:
    url = f"http://127.0.0.1:{odds.port}{path}"
    return httpx.post(url, json=HI, timeout=30, trust_env=False)


def events(text: str) -> list[str]:
    return [one for one in text.split("\n\n") if one]


# ── F1: it dies in the middle of its answer ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_f1_an_openai_stream_ends_with_an_error_and_the_terminator(stack: ExitStack, path: str) -> None:
    odds, (one, two) = over(stack, dies_after(chunked(*HALF, end=False)), dies_after(chunked(*HALF, end=False)))
    said = events(ask(odds, path).text)
    assert said[:2] == ['data: {"n":1}', 'data: {"n":2}'] and said[3:] == ["data: [DONE]"]
    error = json.loads(said[2].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("engine_died", "server_error")
    assert len(one.asked) + len(two.asked) == 1, "nobody is asked again after the first byte"


def test_f1_a_responses_stream_ends_with_its_error_event(stack: ExitStack) -> None:
    odds, _ = over(stack, dies_after(chunked(*HALF, end=False)))
    *before, last = events(ask(odds, "/v1/responses").text)
    kind, data = last.split("\n")
    said = json.loads(data.removeprefix("data: "))
    assert len(before) == 2 and kind == "event: error" and said["type"] == "error" and said["code"] == "engine_died"
    assert said["message"] == said["error"]["message"]


def test_f1_an_anthropic_stream_ends_with_its_error_event(stack: ExitStack) -> None:
    odds, _ = over(stack, dies_after(chunked(*HALF, end=False)))
    *before, last = events(ask(odds, "/v1/messages").text)
    kind, data = last.split("\n")
    said = json.loads(data.removeprefix("data: "))
    assert len(before) == 2 and kind == "event: error" and said["type"] == "error" and said["error"]["message"]


def test_f1_an_ollama_stream_ends_with_a_line_that_is_an_error(stack: ExitStack) -> None:
    rows = (b'{"message":{"content":"a"},"done":false}\n', b'{"message":{"con')
    odds, _ = over(stack, dies_after(chunked(*rows, kind=b"application/x-ndjson", end=False)))
    first, last = ask(odds, "/api/chat").text.splitlines()  # no empty line: clients parse each
    assert json.loads(first)["message"]["content"] == "a" and json.loads(last)["error"]


def test_an_ollama_stream_that_breaks_costs_what_came_of_it(stack: ExitStack) -> None:
    rows = [b'{"message":{"content":"a"},"done":false}\n'] * 12
    odds, _ = over(stack, dies_after(chunked(*rows, kind=b"application/x-ndjson", end=False)))
    assert "error" in ask(odds, "/api/chat").text
    eventually(lambda: odds.logged)
    row = odds.logged[0]
    assert row["completion"] == 10 and row["prompt"] and row["estimated"]


def test_f1_a_stream_that_breaks_between_events_has_no_half_one(stack: ExitStack) -> None:
    odds, _ = over(stack, dies_after(chunked(b'data: {"n":1}\n', end=False)))
    first, error, _ = events(ask(odds).text)
    assert first == 'data: {"n":1}' and "engine_died" in error


def test_a_short_stream_that_breaks_is_taken_back_whole(stack: ExitStack) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    begun = head % 999 + b'data: {"first":1}\n\n' * 9 + b"data: {"
    good = b'data: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'
    odds, (dead, alive) = over(stack, dies_after(begun), says(head % len(good) + good))
    odds.live(alive).load.tokens = 10**6
    assert ask(odds).content == good and dead.asked
    eventually(lambda: odds.logged)
    assert odds.logged[0]["completion"] == 1, "what was taken back costs nothing"
    odds, _ = over(stack, dies_after(begun))
    answer = ask(odds)
    assert answer.status_code == 503 and "the replica failed" in answer.json()["error"]["message"]


def test_half_a_line_waits_for_its_other_half_and_a_last_one_without_end_passes(stack: ExitStack) -> None:
    pieces = [b"data: on", b"e\n\ndata: two", b"\n\n", b": no newline"]
    odds, _ = over(stack, says(chunked(*pieces)))
    assert ask(odds).content == b"".join(pieces)


def test_a_line_without_end_is_passed_on_in_bounded_pieces(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LINE", 1000)
    more = threading.Event()

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        sock.sendall(chunked(b"x" * 5000, end=False))
        more.wait(30)
        sock.sendall(b"0\r\n\r\n")

    odds, _ = over(stack, play)
    with httpx.stream("POST", odds.url, json=HI, timeout=10, trust_env=False) as answer:
        pieces = answer.iter_bytes()
        got = len(next(pieces))
        more.set()
        assert got + sum(map(len, pieces)) == 5000


def test_an_answer_that_streams_does_not_hold_what_it_was_asked(stack: ExitStack) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        sock.sendall(chunked(b"data: x\n\n", end=False))
        sock.recv(1)

    odds, _ = over(stack, play)
    body = {**HI, "user": "x" * 2**20}
    with httpx.stream("POST", odds.url, json=body, timeout=30, trust_env=False) as answer:
        rows = answer.iter_lines()
        assert next(rows) and odds.gate.bodies.bytes == 0
    eventually(lambda: not odds.gate.connections)
    assert odds.gate.bodies.bytes == 0


# ── it fails before ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_replica_that_resets_costs_nothing_and_rests(stack: ExitStack) -> None:
    odds, (bad, good) = over(stack, dies_after(), says(whole()))
    assert [ask(odds).content for _ in range(6)] == [HELLO] * 6
    assert odds.live(bad).standing.resting and len(bad.asked) == 2 and len(good.asked) == 6


def test_while_all_rest_they_are_asked_in_the_hope_that_they_are_back(stack: ExitStack) -> None:
    plays = [dies_after(), dies_after()]
    odds, replicas = over(stack, *plays)
    gone = [ask(odds) for _ in range(3)]
    assert [one.status_code for one in gone] == [503] * 3 and gone[0].headers["retry-after"]
    assert all(odds.live(one).standing.resting for one in replicas)
    replicas[1].play = says(whole())
    assert ask(odds).content == HELLO and not odds.live(replicas[1]).standing.resting


def test_a_loop_of_fallbacks_asks_nobody_twice(stack: ExitStack) -> None:
    one, two = Odd(dies_after()), Odd(dies_after())
    for odd in (one, two):
        stack.callback(odd.close)
    odds = stack.enter_context(
        gate_over(handle("alpha", one, fallbacks=("beta",)), handle("beta", two, fallbacks=("alpha",)))
    )
    assert ask(odds).status_code == 503 and (len(one.asked), len(two.asked)) == (1, 1)


# ── it hangs ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "HEDGE", 0.2)
    monkeypatch.setattr(probing, "DEADLINE", 0.4)


def asking(odds: Odds) -> tuple[threading.Thread, list[httpx.Response]]:
    found: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: found.append(ask(odds)))
    thread.start()
    return thread, found


def test_f17_who_waits_for_a_replica_that_hangs_is_sent_to_another(stack: ExitStack, hasty: None) -> None:
    odds, (hung, good) = over(stack, silent, says(whole()))
    odds.live(good).load.tokens = 10**6  # else it would be asked first, or not
    thread, found = asking(odds)
    eventually(lambda: hung.asked)
    assert odds.run(watch(odds.live(hung))).state is None
    thread.join(30)
    assert [one.content for one in found] == [HELLO] and odds.live(hung).standing.resting
    assert len(good.asked) == 1


def test_a_probe_that_is_lost_is_no_verdict_for_another_goes_out(stack: ExitStack, hasty: None) -> None:
    well = whole(b'{"state":"ready"}')

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        (silent if number == 1 else says(well))(odd, sock, number)

    odds, (one,) = over(stack, play)
    assert odds.run(watch(odds.live(one))).state == "ready" and one.connections == 2
    assert not odds.live(one).standing.failures


@pytest.mark.parametrize("said", [b"[]", b"{", b'"x"', b"\xff", b"{}"])
def test_health_that_is_none_is_a_failure_and_no_crash(stack: ExitStack, hasty: None, said: bytes) -> None:
    odds, (one,) = over(stack, says(whole(said)))
    assert odds.run(watch(odds.live(one))).why and odds.live(one).standing.resting


def test_a_probe_brings_back_one_that_rests_and_later_each_time_it_does_not(stack: ExitStack, hasty: None) -> None:
    odds, (one,) = over(stack, silent)
    live = odds.live(one)
    odds.run(watch(live))
    first = live.standing
    one.play = says(whole(b'{"state":"ready"}'))
    assert first.resting and odds.run(watch(live)).state == "ready" and not live.standing.resting
    assert live.load.warm


def test_an_answer_that_is_silent_while_its_replica_hangs_ends(
    stack: ExitStack, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        if number == 1:
            sock.sendall(chunked(HALF[0], end=False))
            begun.set()
        threading.Event().wait(30)

    odds, (one,) = over(stack, play)
    thread, found = asking(odds)
    assert begun.wait(30)
    eventually(lambda: odds.live(one).answering)
    odds.run(watch(odds.live(one)))
    assert odds.live(one).load.requests == 1 and not found, "it may only be slow"
    monkeypatch.setattr(relay, "SILENT", 0.0)
    odds.run(watch(odds.live(one)))
    thread.join(10)  # less than the replica takes to close
    assert "engine_died" in found[0].text and not odds.live(one).load.requests


def test_who_waits_for_the_only_replica_is_told_in_the_end(
    stack: ExitStack, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        if number == 1:
            odd.request(sock)
            sock.sendall(whole())
        silent(odd, sock, number)

    odds, (one,) = over(stack, play)
    assert ask(odds).content == HELLO
    thread, found = asking(odds)  # on the connection that was kept
    eventually(lambda: len(one.asked) == 2)
    odds.run(watch(odds.live(one)))
    assert odds.live(one).load.requests == 1 and not found
    monkeypatch.setattr(relay, "SILENT", 0.0)
    odds.run(watch(odds.live(one)))
    thread.join(30)
    assert found[0].status_code == 503 and "no answer" in found[0].json()["error"]["message"]
    assert len([row for row in one.asked if row.startswith(b"POST")]) == 2, "it is not asked once more"


# ── its client ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("begun", [True, False])
def test_a_client_that_goes_away_ends_the_replicas_work(stack: ExitStack, begun: bool) -> None:
    ended = threading.Event()

    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        odd.request(sock)
        if begun:
            sock.sendall(chunked(*[b"data: x\n\n"] * 12, end=False))
        try:
            ended_now = sock.recv(1) == b""
        except ConnectionError:
            ended_now = True
        if ended_now:
            ended.set()

    odds, (one,) = over(stack, play)
    with contextlib.suppress(httpx.ReadTimeout), httpx.stream("POST", odds.url, json=HI, timeout=2.0) as answer:
        assert next(answer.iter_bytes())
    assert ended.wait(30)
    eventually(lambda: odds.logged)
    row = odds.logged[0]
    assert row["status"] == 499 and odds.live(one).load.requests == 0 and odds.live(one).load.tokens == 0
    assert row["completion"] == (10 if begun else 0), "what it has got it pays for"
    assert not odds.live(one).waiting and not odds.live(one).answering


def test_an_error_of_our_own_costs_one_request(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    odds, _ = over(stack, says(whole()))
    told = list[dict[str, Any]]()
    odds.loop.call_soon_threadsafe(odds.loop.set_exception_handler, lambda loop, said: told.append(said))
    monkeypatch.setattr(odds.gate.replicas, "ways", lambda *given: 1 / 0)
    with httpx.Client(trust_env=False) as client:
        broken = client.post(odds.url, json=HI)
        assert broken.status_code == 500 and broken.json()["error"]["code"] == "internal_error"
        monkeypatch.undo()
        assert client.post(odds.url, json=HI).status_code == 200
    assert isinstance(told[0]["exception"], ZeroDivisionError)
