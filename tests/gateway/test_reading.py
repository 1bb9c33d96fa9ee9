"""How much the gateway reads at once."""

from __future__ import annotations

import json
from typing import Any

from llmctl.runner.edge import PIECE
from tests.gateway.odd import CHAT, Odd, gate_over, handle, says, whole
from tests.runner.fake_slot import connect, post, read_response

BODY = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}]}


def test_no_read_of_either_side_asks_for_more_than_a_piece() -> None:
    """Room for more may be mapped and unmapped for each streamed chunk, at several times the cost of the read."""
    replica = Odd(says(whole()))
    try:
        with gate_over(handle("alpha", replica)) as odds, connect(odds.port) as sock:
            sock.sendall(post(CHAT, json.dumps(BODY).encode()))
            assert read_response(sock).status == 200
            (front,) = odds.gate.connections
            (kept,) = next(iter(odds.gate.replicas.live.values())).pool._idle
            transports: list[Any] = [front.transport, kept.transport]
            assert [one.max_size for one in transports] == [PIECE, PIECE]
    finally:
        replica.close()
