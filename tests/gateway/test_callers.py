"""The keys of the gateway's clients."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect as websocket

from llmctl.errors import LlmctlError, Refused, StateError, UnknownName
from llmctl.gateway import callers
from llmctl.gateway.callers import Callers
from llmctl.gateway.limits import Allowed
from tests.conftest import eventually
from tests.gateway.odd import Odd, Odds, chunked, echo, gate_over, handle, silent


def test_a_key_is_seen_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    key = callers.add(tmp_path, "ann", Allowed(handles=("fast*",), requests=5))
    file = tmp_path / "gateway" / "keys.json"
    assert key not in file.read_text() and key.encode() not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    (found,) = callers.read(tmp_path).values()
    assert (found.name, found.allowed.requests, found.revoked) == ("ann", 5, None)
    assert found.may("fast-1") and not found.may("deep")
    assert len({callers.add(tmp_path, f"k{i}", Allowed()) for i in range(5)}) == 5


def test_a_revoked_key_is_found_as_revoked_and_its_name_is_free(tmp_path: Path) -> None:
    known = Callers(tmp_path)
    key = callers.add(tmp_path, "ann", Allowed())
    with pytest.raises(Refused, match="a key ann already"):
        callers.add(tmp_path, "ann", Allowed())
    known.fresh()
    assert (found := known.of([b"other", key.encode()])) and found.revoked is None
    callers.revoke(tmp_path, "ann")
    known.fresh()
    assert (found := known.of([key.encode()])) and found.revoked is not None
    assert known.of([b"llmctl-x"]) is None and known.of([]) is None
    with pytest.raises(UnknownName, match="no key 'ann'"):
        callers.revoke(tmp_path, "ann")
    callers.add(tmp_path, "ann", Allowed())


def test_a_file_that_makes_no_sense_changes_nothing_while_it_runs(tmp_path: Path) -> None:
    key = callers.add(tmp_path, "ann", Allowed())
    known = Callers(tmp_path)
    known.fresh()
    for text in ("{", "[]", '{"version": 9, "keys": []}', '{"version": 1, "keys": [1]}'):
        (tmp_path / "gateway" / "keys.json").write_text(text)
        with pytest.raises(StateError):
            callers.read(tmp_path)
        known.fresh()
        assert known.error and known.of([key.encode()])


def test_a_name_must_be_one(tmp_path: Path) -> None:
    for name in ("", "../x", "a b", "x" * 300, "-a"):
        with pytest.raises(LlmctlError):
            callers.add(tmp_path, name, Allowed())
    assert json.loads('{"keys": []}')["keys"] == list(callers.read(tmp_path))


def test_a_torn_file_does_not_bring_back_what_was_revoked(tmp_path: Path) -> None:
    key = callers.add(tmp_path, "ann", Allowed())
    known = Callers(tmp_path)
    callers.revoke(tmp_path, "ann")
    known.fresh()
    (tmp_path / "gateway" / "keys.json").write_text("{")
    known.fresh()
    assert known.error and (found := known.of([key.encode()])) and found.revoked is not None
    with pytest.raises(StateError, match="cannot be read"):
        callers.read(tmp_path)


# ── a key is revoked while it has something under way ───────────────────────────────────────────────────────────────


def streaming(odd: Odd, sock: socket.socket, number: int) -> None:
    odd.request(sock)
    sock.sendall(chunked(b"data: x\n\n", end=False))
    sock.recv(1)


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[Odds, str, Odd]]:
    key, odd = callers.add(tmp_path, "ann", Allowed()), Odd(streaming)
    with gate_over(handle("alpha", odd), home=tmp_path) as odds:
        yield odds, key, odd
    odd.close()


async def look(odds: Odds) -> None:
    odds.gate.look()


BODY = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


def test_a_stream_of_a_key_that_is_revoked_ends_with_an_error(keyed: tuple[Odds, str, Odd], tmp_path: Path) -> None:
    odds, key, _ = keyed
    other = callers.add(tmp_path, "bob", Allowed())
    odds.run(look(odds))

    def ask(key: str) -> Any:
        return httpx.stream("POST", odds.url, json=BODY, headers={"x-api-key": key}, timeout=30, trust_env=False)

    with ask(key) as mine, ask(other) as bobs:
        rows, others = mine.iter_lines(), bobs.iter_lines()
        assert next(rows) == next(others) == "data: x"
        callers.revoke(tmp_path, "ann")
        odds.run(look(odds))
        *_, error, _, done, _ = rows
        said = json.loads(error.removeprefix("data: "))["error"]
        assert (said["message"], said["code"]) == ("the key ann was revoked", "invalid_api_key")
        assert done == "data: [DONE]" and len(odds.gate.asking) == 1, "bob's goes on"
    eventually(lambda: not odds.gate.asking)
    assert [row["status"] for row in odds.logged] == [401, 499]


def test_a_request_that_waits_ends_with_its_key(keyed: tuple[Odds, str, Odd], tmp_path: Path) -> None:
    odds, key, odd = keyed
    odd.play = silent
    found: list[httpx.Response] = []

    def ask() -> None:
        found.append(httpx.post(odds.url, json=BODY, headers={"x-api-key": key}, timeout=30, trust_env=False))

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: odd.asked)
    (tmp_path / "gateway" / "keys.json").unlink()
    odds.run(look(odds))
    asking.join(30)
    assert found[0].status_code == 401 and odds.live(odd).load.requests == 0


def test_a_websocket_of_a_key_that_is_revoked_is_closed_with_a_reason(
    keyed: tuple[Odds, str, Odd], tmp_path: Path
) -> None:
    odds, key, odd = keyed
    odd.play = echo
    with websocket(f"ws://127.0.0.1:{odds.port}/ws", additional_headers={"x-api-key": key}) as client:
        client.send("one")
        assert client.recv(30) == "one"
        callers.revoke(tmp_path, "ann")
        odds.run(look(odds))
        with pytest.raises(ConnectionClosedError) as ended:
            client.recv(30)
        assert ended.value.rcvd and (ended.value.rcvd.code, ended.value.rcvd.reason) == (
            1008,
            "the key ann was revoked",
        )
    eventually(lambda: odds.logged)
    assert odds.logged[0]["status"] == 401 and odds.logged[0]["completion"] == 1 and odds.logged[0]["estimated"]


# ── what a key may see ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_sees_the_handles_that_it_may_ask_and_no_figures(tmp_path: Path) -> None:
    key, odd = callers.add(tmp_path, "ann", Allowed(handles=("al*",))), Odd(silent)
    with gate_over(handle("alpha", odd), handle("secret", odd), home=tmp_path) as odds:

        def get(path: str, *, mine: bool = True) -> httpx.Response:
            headers = {"x-api-key": key} if mine else {}
            return httpx.get(f"http://127.0.0.1:{odds.port}{path}", headers=headers, trust_env=False)

        assert [one["id"] for one in get("/v1/models").json()["data"]] == ["alpha"]
        assert [one["name"] for one in get("/api/tags").json()["models"]] == ["alpha"]
        assert get("/v1/models/alpha").json()["id"] == "alpha" and get("/v1/models/secret").status_code == 403
        missing = get("/v1/models/secre")
        assert missing.status_code == 404 and "secret" not in missing.text
        assert get("/metrics").status_code == 403 and get("/metrics", mine=False).status_code == 200
        assert get("/v1/models/secre", mine=False).json()["error"]["hint"] == "did you mean 'secret'?"
    odd.close()
