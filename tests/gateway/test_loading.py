"""Requests for a model that has to be loaded first: they join one load, are told how far it is, or are sent away."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmctl.domain import OnDemand
from llmctl.errors import Busy, RequestError
from llmctl.gateway import course, loading, waiting
from llmctl.gateway.command import Command
from llmctl.gateway.loading import Loads
from llmctl.gateway.registry import Replica
from llmctl.gateway.turns import Turns
from tests.conftest import eventually
from tests.gateway.fake_gate import serve
from tests.runner.fake_slot import FakeService

SOON = OnDemand(told=0.1, every=0.1)
HI = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}]}


class Slow:
    """A load that goes on until `go` is set, with events of its progress."""

    def __init__(self, fails: str = "") -> None:
        self.go, self.calls, self.fails = threading.Event(), 0, fails

    async def __call__(self, replica: Any, on_event: Callable[[dict[str, Any]], None]) -> None:
        self.calls += 1
        on_event({"event": "stage", "stage": "weights", "done": 45, "total": 100, "eta": 12.0})
        while not self.go.is_set():
            await asyncio.sleep(0.01)
        if self.fails:
            raise RequestError(self.fails, status=503, code="load_failed")


def ask(slot: Any, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    return httpx.post(f"{slot.base_url}{path}", json={**HI, **fields}, timeout=30, trust_env=False)


def test_all_who_ask_join_one_load() -> None:
    slow, found = Slow(), list[int]()
    with serve(FakeService(), start=slow) as slot:
        asking = [threading.Thread(target=lambda: found.append(ask(slot).status_code)) for _ in range(5)]
        for thread in asking:
            thread.start()
        eventually(lambda: len(slot.gate.connections) == 5)
        assert not found and slow.calls == 1
        slow.go.set()
        for thread in asking:
            thread.join()
        assert found == [200] * 5 and ask(slot).status_code == 200 and slow.calls == 1


def test_a_load_that_fails_is_told_and_not_tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow("it does not fit: needs 9 GB, has 2 GB")
    slow.go.set()
    with serve(FakeService(), start=slow) as slot:
        for _ in range(3):
            answer = ask(slot)
            assert answer.status_code == 503 and "needs 9 GB" in answer.json()["error"]["message"]
        assert slow.calls == 1
        monkeypatch.setattr(loading, "AGAIN", 0.0)
        slow.fails = ""
        assert ask(slot).status_code == 200 and slow.calls == 2


def test_a_failure_that_is_told_again_keeps_nobody_who_was_told_it() -> None:
    async def fails(replica: Any, on_event: Any) -> None:
        raise RequestError("no room", status=503, code="load_failed", hint="llmctl status", details={"retry_after": 5})

    async def state(replica: Any) -> str:
        return "empty"

    async def told() -> list[RequestError]:
        found, one = list[RequestError](), Replica("here", 1, "alpha", on_demand=True)
        loads = Loads(fails, state, Turns(1.0, 1), lambda where: True, 60.0)
        await asyncio.wait([loads.begin(one).task])
        for _ in range(2):
            with pytest.raises(RequestError) as caught:
                loads.begin(one)
            found.append(caught.value)
        await loads.close()
        return found

    first, second = asyncio.run(told())
    assert first is not second and first.to_dict() == second.to_dict()
    assert (first.message, first.status, first.code, first.hint) == ("no room", 503, "load_failed", "llmctl status")
    assert first.details == {"retry_after": 5}


def test_a_llmctl_that_cannot_be_started_is_a_load_that_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    command, tries = Command(tmp_path, lambda: None), list[Replica]()

    async def start(replica: Replica, on_event: Any) -> None:
        tries.append(replica)
        await command.load(replace(replica, profile="p"), on_event)

    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with serve(FakeService(), start=start) as slot:
        for _ in range(2):
            answer = ask(slot)
            error = answer.json()["error"]
            assert answer.status_code == 503 and error["code"] == "load_failed"
            assert error["message"] == "llmctl cannot be started: No such file or directory"
            assert error["hint"] == "llmctl doctor"
    assert len(tries) == 1


def test_the_end_ends_every_load_and_none_begins_after_it() -> None:
    async def start(replica: Replica, on_event: Any) -> None:
        if replica.port == 1:
            raise OSError("what nobody foresaw")
        await asyncio.Event().wait()

    async def state(replica: Replica) -> str:
        return "empty"

    async def told() -> tuple[list[RequestError], list[bool]]:
        loads, found = Loads(start, state, Turns(1.0, 1), lambda where: True, 60.0), list[RequestError]()
        one, two, three = (loads.begin(Replica("here", port, "alpha", on_demand=True)).task for port in (1, 2, 3))

        def tries_the_next(task: Any) -> None:
            try:
                loads.begin(Replica("here", 4, "beta", on_demand=True))
            except RequestError as error:
                found.append(error)

        two.add_done_callback(tries_the_next)
        await asyncio.wait([one])
        await loads.close()
        return found, [two.cancelled(), three.cancelled()]

    found, cancelled = asyncio.run(told())
    assert [error.message for error in found] == ["the gateway ends"] and cancelled == [True, True]


def test_who_streams_is_told_how_far_it_is_in_comments() -> None:
    slow = Slow()
    with serve(FakeService(words=["a", "b"]), start=slow, times=SOON) as slot:
        body = {**HI, "stream": True}
        with httpx.stream(
            "POST", f"{slot.base_url}/v1/chat/completions", json=body, timeout=30, trust_env=False
        ) as got:
            rows = got.iter_lines()
            assert got.status_code == 200 and next(rows) == ": loading alpha: weights 45 %, 12 s left"
            slow.go.set()
            rest = [row for row in rows if row and not row.startswith(":")]
        assert rest[-1] == "data: [DONE]" and sum('"content":"a"' in row for row in rest) == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/api/generate"])
@pytest.mark.parametrize("asks", [True, False])
def test_who_asks_so_is_told_in_thoughts_and_ollamas_clients_in_lines_without_text(path: str, asks: bool) -> None:
    slow = Slow()
    body = {"model": "alpha", "prompt": "hi"} if path == "/api/generate" else {**HI, "stream": True}
    headers = {"x-llmctl-progress": "reasoning"} if asks else {}
    with serve(FakeService(words=["a"]), start=slow, times=SOON) as slot:
        url = slot.base_url + path
        with httpx.stream("POST", url, json=body, headers=headers, timeout=30, trust_env=False) as got:
            rows = (row for row in got.iter_lines() if row)
            first = next(rows)
            slow.go.set()
            rest = list(rows)
    if path == "/v1/chat/completions":
        assert first.startswith("data: " if asks else ": loading alpha")
        said = json.loads(first.removeprefix("data: "))["choices"][0]["delta"] if asks else {"reasoning_content": first}
        thoughts = said["reasoning_content"]
        assert rest[-1] == "data: [DONE]"
    else:
        assert got.headers["content-type"] == "application/x-ndjson"
        whole = json.loads(first)
        said = whole["message"] if path == "/api/chat" else whole
        assert said.get("content", said.get("response")) == "" and whole["done"] is False
        thoughts = said.get("thinking", "")
        assert json.loads(rest[-1])["done"] is True
    assert ("loading alpha: weights 45 %, 12 s left" in thoughts) == (asks or path == "/v1/chat/completions")


def test_another_wish_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(FakeService(), start=Slow()) as slot:
        headers = {"x-llmctl-progress": "bars"}
        answer = httpx.post(f"{slot.base_url}/v1/chat/completions", json=HI, headers=headers, trust_env=False)
        assert answer.status_code == 400 and answer.json()["error"]["hint"] == "comments or reasoning"


def late(slot: Any, slow: Slow, **fields: Any) -> list[str]:
    """The events of a stream whose load ends after the first of them."""
    url, body = f"{slot.base_url}/v1/chat/completions", {**HI, "stream": True, **fields}
    with httpx.stream("POST", url, json=body, timeout=30, trust_env=False) as got:
        rows = got.iter_lines()
        assert got.status_code == 200 and next(rows).startswith(": loading alpha")
        slow.go.set()
        return [row for row in rows if row and not row.startswith(":")]


def test_what_the_slot_refuses_after_the_head_of_a_stream_is_told_in_its_words() -> None:
    slow = Slow()
    with serve(FakeService(), start=slow, times=SOON) as slot:
        rows = late(slot, slow, temperature=99)
    error = json.loads(rows[-2].removeprefix("data: "))["error"]
    assert "temperature" in error["message"] and rows[-1] == "data: [DONE]"


def test_a_stream_whose_load_fails_ends_with_an_error() -> None:
    slow = Slow("no memory")
    with serve(FakeService(), start=slow, times=SOON) as slot:
        rows = late(slot, slow)
    assert '"no memory"' in rows[-2] and rows[-1] == "data: [DONE]"


def test_who_does_not_stream_is_sent_away_with_how_far_it_is() -> None:
    slow = Slow()
    with serve(FakeService(), start=slow, times=OnDemand(patience=0.2)) as slot:
        answer = ask(slot)
        error = answer.json()["error"]
        assert (answer.status_code, answer.headers["retry-after"], error["code"]) == (503, "12", "loading")
        assert error["details"] == {"state": "loading", "progress": 0.45, "eta": 12.0, "retry_after": 12.0}
        slow.go.set()
        eventually(lambda: ask(slot).status_code == 200)
        assert slow.calls == 1, "the load went on"


class Full(Slow):
    """A load that finds no room until `go` is set."""

    async def __call__(self, replica: Any, on_event: Callable[[dict[str, Any]], None]) -> None:
        self.calls += 1
        if not self.go.is_set():
            raise Busy("another one answers", details={"where": None})


def test_a_load_without_room_tries_again_while_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "FIRST_PAUSE", 0.1)
    full, found = Full(), list[int]()
    with serve(FakeService(), start=full) as slot:
        asking = threading.Thread(target=lambda: found.append(ask(slot).status_code))
        asking.start()
        eventually(lambda: full.calls >= 3)
        assert [row["stage"] for row in slot.gate.demand.loads.rows()] == [loading.TURN] and not found
        full.go.set()
        asking.join()
    assert found == [200]


def test_a_load_without_room_is_given_up_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ABANDONED", 0.2)
    with serve(FakeService(), start=Full()) as slot:
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{slot.base_url}/v1/chat/completions", json=HI, timeout=0.3, trust_env=False)
        eventually(lambda: not slot.gate.demand.loads.rows())


def test_a_load_has_an_end() -> None:
    with serve(FakeService(), start=Slow(), times=OnDemand(longest=0.3)) as slot:
        error = ask(slot).json()["error"]
        assert error["code"] == "load_failed" and "alpha was not loaded within 0 s" in error["message"]
        assert "llmctl status" in error["hint"] and not slot.gate.demand.loads.rows()


def test_a_model_that_comes_and_goes_is_not_waited_for_without_end() -> None:
    slow = Slow()
    slow.go.set()
    refusal = RequestError("no model is loaded on this port", status=503, code="unavailable")
    with serve(FakeService(refusal=refusal), start=slow) as slot:
        answer = ask(slot)
        assert answer.status_code == 503 and "no model is loaded" in answer.json()["error"]["message"]
        assert slow.calls == course.TRIES


def test_who_waits_when_the_gateway_ends_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "ENDING", 0.2)
    with serve(FakeService(), start=Slow()) as slot:
        found: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: found.append(ask(slot)))
        asking.start()
        eventually(lambda: slot.gate.demand.loads.rows())
        for front in list(slot.gate.connections):
            front.loop.call_soon_threadsafe(front.shutdown)
        asking.join()
        assert found[0].status_code == 503 and found[0].headers["retry-after"] == "12"


def test_a_handles_own_time_holds_where_no_request_said_another() -> None:
    slow = Slow()
    slow.go.set()
    with serve(FakeService(), start=slow, keep_alive=0.5) as slot:

        def there() -> bool:
            slot.loop.call_soon_threadsafe(slot.gate.demand.tick)
            return bool(httpx.get(f"{slot.base_url}/api/ps", trust_env=False).json()["models"])

        assert ask(slot).status_code == 200 and there()
        eventually(lambda: not there())
        assert ask(slot).status_code == 200 and slow.calls == 2


def test_a_client_that_goes_away_while_it_waits_leaves_nothing() -> None:
    slow = Slow()
    with serve(FakeService(), start=slow) as slot:
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{slot.base_url}/v1/chat/completions", json=HI, timeout=0.3, trust_env=False)
        eventually(lambda: not slot.gate.connections)
        slow.go.set()
        eventually(lambda: ask(slot).status_code == 200)
        assert len(slot.service.seen) == 1
