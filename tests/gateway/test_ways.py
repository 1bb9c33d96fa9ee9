"""What a way to a replica that is full, or a key that it does not take, means for requests and for its standing."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from llmctl.gateway.probing import watch
from llmctl.gateway.replicas import Live
from llmctl.gateway.upstream import Pool, Upstream
from tests.clients import chat
from tests.gateway.odd import HELLO, Odd, Odds, echo, gate_over, handle, says, whole
from tests.runner.fake_slot import raw
from tests.runner.sockets import request as handshake

WELL = whole(b'{"state":"ready"}')


def fill(odds: Odds, one: Odd) -> None:
    """From now on the way to a replica carries as many as it may."""
    live = odds.live(one)

    async def fill() -> None:
        live.pool.close()
        live.pool = Pool(live.pool._connect, lambda: True)

    odds.run(fill())


def test_a_full_way_sends_requests_on_and_is_no_failure() -> None:
    one, two = Odd(says(whole())), Odd(says(whole()))
    with gate_over(handle("alpha", one, two)) as odds:
        fill(odds, one)
        assert [chat(odds.port)[0] for _ in range(4)] == [200] * 4
        assert not one.asked and len(two.asked) == 4
        fill(odds, two)
        status, headers, body = chat(odds.port)
        assert status == 503 and headers["retry-after"] and "carries" in body["error"]["message"]
        for replica in (one, two):
            live = odds.live(replica)
            assert not live.standing.failures and live.load.requests == 0


def test_a_full_way_lets_a_probe_through() -> None:
    one = Odd(says(WELL))
    with gate_over(handle("alpha", one)) as odds:
        fill(odds, one)
        assert odds.run(watch(odds.live(one))).state == "ready"


def test_a_full_way_sends_a_websocket_on_and_is_no_failure() -> None:
    one, two = Odd(echo), Odd(echo)
    with gate_over(handle("alpha", one, two)) as odds:
        fill(odds, one)
        with connect(f"ws://127.0.0.1:{odds.port}/ws") as socket:
            socket.send("hello")
            assert socket.recv(30) == "hello"
        fill(odds, two)
        with pytest.raises(InvalidStatus, match="503"):
            connect(f"ws://127.0.0.1:{odds.port}/ws")
        assert not odds.live(one).standing.failures and not odds.live(two).standing.failures


def test_whatever_a_way_fails_with_its_client_hears_of_it() -> None:
    async def broken(made: object) -> tuple[object, Upstream]:
        raise ZeroDivisionError

    async def swap(live: Live) -> None:
        live.pool.close()
        live.pool = Pool(broken)

    one, two = Odd(says(whole())), Odd(says(whole()))
    with gate_over(handle("alpha", one, two)) as odds:
        odds.run(swap(odds.live(one)))
        assert [chat(odds.port)[0] for _ in range(4)] == [200] * 4
        odds.run(swap(odds.live(two)))
        status, _, body = chat(odds.port)
        assert status == 503 and "ZeroDivisionError" in body["error"]["message"]
        response = raw(odds.port, handshake("/ws"))
        assert response.status == 503 and b"ZeroDivisionError" in response.body
        assert odds.live(one).standing.why and not odds.live(one).load.requests


def test_a_replica_that_refuses_the_gateways_key_is_no_word_to_the_client() -> None:
    refusing, well = Odd(says(whole(b"{}", status=b"401 Unauthorized"))), Odd(says(whole(HELLO)))
    with gate_over(handle("alpha", refusing, well)) as odds:
        assert [chat(odds.port)[0] for _ in range(6)] == [200] * 6
        assert refusing.asked and odds.live(refusing).standing.resting
    with gate_over(handle("alpha", refusing)) as odds:
        status, _, body = chat(odds.port)
        assert status == 503 and "llmctl handles sync" in body["error"]["message"]
