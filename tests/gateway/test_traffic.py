"""A running gateway over running slots: what passes, what is retried, what a client sees when a replica ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from llmctl.domain import Limits, SlotSpec
from llmctl.gateway import life, registry
from llmctl.gateway.registry import Registry
from llmctl.slots import verbs
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually
from tests.gateway.conftest import Start, handle
from tests.gateway.odd import Odd, chunked, reading_nothing, whole
from tests.runner.fake_slot import post

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


def rows(gate: RunningSlot) -> dict[int, dict[str, Any]]:
    """What the gateway says of each replica, by port."""
    found = life.status(gate.home, gate.port)["replicas"]
    return {int(row["where"].rpartition(":")[2]): row for row in found}


def asked(gate: RunningSlot) -> list[int]:
    """The ports of those that answered, request by request."""
    log = (gate.folder.path / "requests.log").read_text()
    said = [json.loads(line.split("request: ")[1]) for line in log.splitlines()]
    return [int(row["replica"].rpartition(":")[2]) for row in said]


def test_a_dead_replica_costs_no_request_rests_and_comes_back_by_a_probe(
    slots: Slots, script: Script, gateway: Start
) -> None:
    one, two = slots(script("alpha")), slots(script("alpha"))
    gate = gateway(handle("alpha", one, two))
    assert chat(gate.port, max_tokens=2).status_code == 200
    one.kill()
    assert [chat(gate.port, max_tokens=2).status_code for _ in range(8)] == [200] * 8
    found = rows(gate)
    assert found[one.port]["why"] and not found[two.port]["why"]
    assert all(row["requests"] == row["tokens"] == 0 for row in found.values())
    eventually(lambda: rows(gate)[one.port]["resting"])
    verbs.ensure_server(one.home, one.port, one.launch)
    eventually(lambda: rows(gate)[one.port]["warm"] and not rows(gate)[one.port]["resting"])
    before = len(asked(gate))
    both = [threading.Thread(target=chat, args=(gate.port,), kwargs={"max_tokens": 20}) for _ in range(16)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    eventually(lambda: set(asked(gate)[before:]) == {one.port, two.port})


def test_requests_with_one_beginning_go_to_who_has_read_it(slots: Slots, script: Script, gateway: Start) -> None:
    slow = script("alpha", step=0.02, length=400)
    gate = gateway(handle("alpha", slots(slow), slots(slow)))
    bodies = {name: {"messages": [{"role": "user", "content": name * 1500}]} for name in "ab"}

    def talk(name: str) -> int:
        before = len(asked(gate))
        assert chat(gate.port, **bodies[name], max_tokens=1).status_code == 200
        return eventually(lambda: asked(gate)[before:])[0]

    url = f"http://127.0.0.1:{gate.port}{CHAT}"
    body = {**bodies["a"], "stream": True, "max_tokens": 400}
    with httpx.stream("POST", url, json=body, timeout=60, trust_env=False) as busy:
        assert busy.status_code == 200, busy.read()
        events = busy.iter_lines()  # kept: its end would be the stream's
        next(events)
        (of_a,) = (port for port, row in rows(gate).items() if row["requests"])
        (of_b,) = (port for port in rows(gate) if port != of_a)
        assert talk("b") == of_b, "which has less to do"
    eventually(lambda: not any(row["requests"] for row in rows(gate).values()))
    assert [talk(name) for name in "abbaab"] == [of_a, of_b, of_b, of_a, of_a, of_b]


def test_a_replica_without_its_model_is_asked_last(slots: Slots, script: Script, gateway: Start) -> None:
    one, two = slots(script("alpha")), slots(script("alpha"))
    gate = gateway(handle("alpha", one, two))
    verbs.unload(one.home, one.port)
    eventually(lambda: not rows(gate)[one.port]["warm"] and rows(gate)[two.port]["warm"])
    assert [chat(gate.port, max_tokens=2).status_code for _ in range(6)] == [200] * 6
    assert eventually(lambda: asked(gate) == [two.port] * 6)
    assert '"retries": 1' not in (gate.folder.path / "requests.log").read_text(), "nor first"
    two.kill()
    assert chat(gate.port, max_tokens=2).status_code == 503, "an empty slot's own word"


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
    slow = script("alpha", prefill=0.6)
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
        assert chat(gate.port, max_tokens=2).status_code == 200
        assert rows(gate)[both[0].port]["resting"]
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not any(row["resting"] for row in rows(gate).values()))


def test_a_registry_that_changes_is_followed(slots: Slots, script: Script, gateway: Start) -> None:
    slot = slots(script("alpha"))
    gate = gateway(handle("alpha", slot))
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


# ── much at once ────────────────────────────────────────────────────────────────────────────────────────────────────


async def burst(port: int, count: int, model: str) -> list[tuple[int, bool]]:
    """So many requests on as many connections at once: status, and whether it says when to come back."""
    body = json.dumps({"model": model, "messages": HI, "max_tokens": 4}).encode()
    request = post(CHAT, body, "Connection: close")

    async def one() -> tuple[int, bool]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        said = await asyncio.wait_for(reader.read(), 120)
        writer.close()
        head = said.partition(b"\r\n\r\n")[0].lower()
        return int(head.split()[1]), b"retry-after" in head

    return await asyncio.gather(*(one() for _ in range(count)))


def test_l2_a_burst_of_512_loses_nothing(slots: Slots, script: Script, gateway: Start) -> None:
    deep, flat = Launch(limits=Limits(queue=512)), Launch(limits=Limits(queue=8))
    roomy = [slots(script("alpha"), deep), slots(script("alpha"), deep)]
    gate = gateway(handle("alpha", *roomy), handle("beta", slots(script("beta"), flat), model="beta"))
    found = asyncio.run(burst(gate.port, 512, "alpha"))
    assert found == [(200, False)] * 512
    assert all(asked(gate).count(slot.port) > 100 for slot in roomy), "both had their part"
    found = asyncio.run(burst(gate.port, 512, "beta"))
    assert len(found) == 512 and set(found) == {(200, False), (429, True)}, "who finds no room is told when to come"
    eventually(lambda: not any(row["requests"] or row["tokens"] for row in rows(gate).values()))
    assert all(not row["why"] for row in rows(gate).values()), "to be busy is no failure"


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_l4_fifty_clients_that_do_not_read_take_little_and_slow_down_nobody(gateway: Start) -> None:
    def play(odd: Odd, sock: socket.socket, number: int) -> None:
        while True:
            if odd.request(sock).startswith(b"GET"):
                sock.sendall(whole(b'{"state":"ready"}'))
            elif b"short" in odd.asked[-1]:
                sock.sendall(whole())
            else:
                sock.sendall(chunked(end=False))
                for _ in range(64):
                    sock.sendall(b"100000\r\n" + b"data: x\n\n" * (2**20 // 9) + b"\n" * (2**20 % 9) + b"\r\n")

    odd = Odd(play)
    gate = gateway(handle("alpha", odd))
    pid = gate.server_pid()
    assert pid and chat(gate.port, user="short").status_code == 200
    before = resident(pid)
    request = post(CHAT, b'{"messages": [], "stream": true}')
    with contextlib.ExitStack() as clients:
        socks = [clients.enter_context(reading_nothing(gate.port)) for _ in range(50)]
        for sock in socks:
            sock.sendall(request)
        eventually(lambda: len(odd.asked) > 50)
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            assert chat(gate.port, user="short").status_code == 200
            assert resident(pid) - before < 50 * 2**20, "of 3 GB that they asked for"
    eventually(lambda: not any(row["requests"] for row in rows(gate).values()))
    odd.close()
