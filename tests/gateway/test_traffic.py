"""A running gateway over running slots: what passes, what is retried, what a client sees when a replica ends."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from llmctl.domain import SlotSpec
from llmctl.gateway import life, registry
from llmctl.gateway.registry import Registry
from tests.conftest import RunningSlot, eventually
from tests.gateway.conftest import Start, handle

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]
CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


def ask(port: int, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=60, trust_env=False)


def chat(port: int, model: str | None = None, **fields: Any) -> httpx.Response:
    return ask(port, CHAT, {"messages": HI, **({"model": model} if model else {}), **fields})


def test_handles_ids_and_no_name_reach_the_slot_that_they_mean(slots: Slots, script: Script, gateway: Start) -> None:
    alpha, beta = slots(script("alpha", names=("fast",))), slots(script("beta"))
    port = gateway(handle("fast", alpha, names=("fast",)), handle("beta", beta, model="beta")).port
    for name, model in (("fast", "alpha"), ("beta", "beta"), (None, "alpha"), ("default", "alpha"), ("", "alpha")):
        assert chat(port, name, max_tokens=3).json()["model"] == model
    wrong = chat(port, "betta")
    assert wrong.status_code == 404 and wrong.json()["error"]["code"] == "model_not_found"
    assert wrong.json()["error"]["hint"] == "did you mean 'beta'?"
    listed = httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).json()
    assert [row["id"] for row in listed["data"]] == ["fast", "beta"]


def test_a_name_that_the_slot_does_not_know_is_told_in_its_own_words(
    slots: Slots, script: Script, gateway: Start
) -> None:
    port = gateway(handle("anything", slots(script("alpha")))).port
    assert chat(port, "anything", max_tokens=2).json()["model"] == "alpha"


@pytest.mark.parametrize("stream", [False, True])
def test_the_bytes_of_an_answer_are_those_of_the_slot(
    slots: Slots, script: Script, gateway: Start, stream: bool
) -> None:
    slot = slots(script("alpha", answers={"hi": "one two three"}))
    port = gateway(handle("alpha", slot)).port
    body = {"model": "alpha", "messages": HI, "stream": stream}
    here, there = ask(port, "/api/chat", body), ask(slot.port, "/api/chat", body)
    strip = ("created_at", "duration")
    texts = [
        [{k: v for k, v in json.loads(row).items() if not k.endswith(strip)} for row in one.text.splitlines()]
        for one in (here, there)
    ]
    assert texts[0] == texts[1] and here.headers["content-type"] == there.headers["content-type"]


def test_a_dead_replica_costs_no_request_and_rests(slots: Slots, script: Script, gateway: Start) -> None:
    one, two = slots(script("alpha")), slots(script("alpha"))
    gate = gateway(handle("alpha", one, two))
    assert chat(gate.port, max_tokens=2).status_code == 200
    one.kill()
    assert [chat(gate.port, max_tokens=2).status_code for _ in range(8)] == [200] * 8
    rows = {row["where"]: row for row in life.status(gate.home, gate.port)["replicas"]}
    assert rows[f"here:{one.port}"]["why"] and not rows[f"here:{two.port}"]["why"]
    assert all(row["requests"] == row["tokens"] == 0 for row in rows.values())


def test_fallbacks_answer_when_no_replica_can(slots: Slots, script: Script, gateway: Start) -> None:
    one, two = slots(script("alpha")), slots(script("beta"))
    gate = gateway(handle("alpha", one, fallbacks=("beta",)), handle("beta", two, model="beta"))
    one.kill()
    assert chat(gate.port, "alpha", max_tokens=2).json()["model"] == "beta"
    two.kill()
    gone = chat(gate.port, "alpha")
    assert gone.status_code == 503 and gone.headers["retry-after"]


def killed_behind(slots: list[RunningSlot], port: int, tokens: int) -> list[str]:
    """The lines of a stream whose replica is killed once so many have come."""
    body = {"messages": HI, "stream": True, "max_tokens": 400}
    url = f"http://127.0.0.1:{port}{CHAT}"
    with httpx.stream("POST", url, json=body, timeout=60, trust_env=False) as response:
        rows = response.iter_lines()
        seen = [next(rows) for _ in range(tokens)]
        busy = eventually(lambda: next((slot for slot in slots if slot.status().active), None))
        os.kill(busy.server_pid(), signal.SIGKILL)
        return [row for row in [*seen, *rows] if row]


def test_a_replica_that_dies_in_a_stream_ends_it_with_an_error_event(
    slots: Slots, script: Script, gateway: Start
) -> None:
    slow = script("alpha", step=0.02, length=400)
    both = [slots(slow), slots(slow)]
    rows = killed_behind(both, gateway(handle("alpha", *both)).port, tokens=6)
    assert rows[-1] == "data: [DONE]" and len(rows) < 390
    assert json.loads(rows[-2].removeprefix("data: "))["error"]["code"] == "engine_died"


def test_a_replica_that_dies_before_the_first_byte_costs_nothing(slots: Slots, script: Script, gateway: Start) -> None:
    slow = script("alpha", prefill=1.0)
    both = [slots(slow), slots(slow)]
    gate = gateway(handle("alpha", *both))
    found: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: found.append(chat(gate.port, max_tokens=5)))
    asking.start()
    busy = eventually(lambda: next((slot for slot in both if slot.status().active), None))
    os.kill(busy.server_pid(), signal.SIGKILL)
    asking.join(30)
    assert [one.status_code for one in found] == [200]


def test_a_replica_that_hangs_loses_its_requests_to_another(slots: Slots, script: Script, gateway: Start) -> None:
    both = [slots(script("alpha")), slots(script("alpha"))]
    gate = gateway(handle("alpha", *both))
    assert chat(gate.port, max_tokens=2).status_code == 200
    pid = both[0].server_pid()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        found = [chat(gate.port, max_tokens=2).status_code for _ in range(3)]
        rows = {row["where"]: row for row in life.status(gate.home, gate.port)["replicas"]}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found == [200] * 3 and rows[f"here:{both[0].port}"]["resting"]
    eventually(lambda: not any(row["resting"] for row in life.status(gate.home, gate.port)["replicas"]))


def test_a_registry_edited_to_nonsense_changes_nothing_and_is_told(
    slots: Slots, script: Script, gateway: Start
) -> None:
    slot = slots(script("alpha"))
    gate = gateway(handle("alpha", slot))
    registry.path(gate.home).write_text('{"version": 1, "handles": [7]}')
    eventually(lambda: life.status(gate.home, gate.port)["why"])
    assert chat(gate.port, "alpha", max_tokens=2).status_code == 200
    other = handle("other", slot)
    registry.write(gate.home, Registry({"other": other}, "other"))
    eventually(lambda: life.status(gate.home, gate.port)["handles"] == ["other"])
    assert chat(gate.port, "alpha").status_code == 404 and chat(gate.port, "other", max_tokens=2).status_code == 200


def test_a_websocket_is_a_pipe_to_the_handle_of_its_address(slots: Slots, script: Script, gateway: Start) -> None:
    alpha, beta = slots(script("alpha")), slots(script("beta", answers={"hi": "two"}))
    port = gateway(handle("alpha", alpha), handle("beta", beta, model="beta")).port
    for query, model in (("", "alpha"), ("?model=beta", "beta")):
        with connect(f"ws://127.0.0.1:{port}/ws{query}") as socket:
            socket.send("{}")
            assert json.loads(socket.recv(10))["model"] == model
    eventually(lambda: not any(row["requests"] for row in life.status(alpha.home, port)["replicas"]))
