"""Processes that die, hang or are not who they seem: F1, F2, F3, F8, F10, F11, F12; load: L2, L3; operators: C1."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmctl import events, processes
from llmctl.domain import Limits, Probe, SlotSpec
from llmctl.errors import Busy, LlmctlError, Refused
from llmctl.processes import ProcessId
from llmctl.slots import verbs
from llmctl.slots.state import Launch
from tests.clients import chat, get, sse
from tests.conftest import RunningSlot, eventually
from tests.gateway.conftest import gateway, served

__all__ = ["gateway", "served"]
Script = Callable[..., SlotSpec]
Slots = Callable[..., RunningSlot]


def is_gone(pid: int) -> bool:
    return processes.start_time(pid) is None


def streaming(port: int, tokens: int = 400) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """An open streaming answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": tokens}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    response = connection.getresponse()
    assert response.status == 200
    return connection, response


def test_f01_a_killed_engine_is_an_error_event_and_comes_back(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", step=0.02, length=400))
    pid = slot.engine_pid()
    assert pid
    connection, response = streaming(slot.port)
    response.readline()
    os.kill(pid, signal.SIGKILL)
    rows = sse(response.read().decode())
    connection.close()
    assert "engine" in rows[-2]["error"]["message"] and rows[-1] == "[DONE]"
    assert get(slot.port, "/health")[0] in (200, 503)
    eventually(lambda: slot.state() == "ready")
    assert slot.engine_pid() not in (None, pid)
    assert chat(slot.port, max_tokens=3)[0] == 200


def test_f01_five_crashes_are_a_crash_loop_until_an_operator_acts(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    pids = set()
    for _ in range(5):
        pid = eventually(slot.engine_pid)
        pids.add(pid)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda p=pid: slot.engine_pid() != p)
    eventually(lambda: slot.state() == "crash-loop")
    assert len(pids) == 5
    status, _, body = get(slot.port, "/health")
    assert (status, body["state"]) == (503, "crash-loop")
    assert chat(slot.port)[0] == 503
    assert verbs.restart(slot.home, slot.port).state == "ready"
    assert chat(slot.port)[0] == 200


def test_requests_wait_through_a_restart(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    os.kill(slot.engine_pid() or 0, signal.SIGKILL)
    eventually(lambda: slot.state() != "ready", every=0.001)
    assert chat(slot.port)[0] == 200


def test_f02_a_killed_server_takes_its_engine_along_and_frees_the_port(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", step=0.02, length=400))
    server, engine = slot.server_pid(), slot.engine_pid()
    assert server and engine
    connection, response = streaming(slot.port)
    os.kill(server, signal.SIGKILL)
    eventually(lambda: is_gone(engine), within=20)
    response.close()
    connection.close()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        eventually(lambda: _binds(sock, slot.port), within=20)
    assert slot.state() == "down"
    assert verbs.restart(slot.home, slot.port).model == "alpha"
    assert chat(slot.port)[0] == 200


def _binds(sock: socket.socket, port: int) -> bool:
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_f03_an_engine_that_ignores_sigterm_is_killed(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", stubborn=True, wedge_after=60, length=400))
    engine = slot.engine_pid()
    assert engine
    threading.Thread(target=chat, args=(slot.port,), kwargs={"max_tokens": 400}, daemon=True).start()
    eventually(lambda: slot.status().active == 1)
    slot.folder.write_desired(slot.folder.read_desired())
    os.kill(engine, signal.SIGTERM)
    verbs.stop(slot.home, slot.port)
    assert is_gone(engine)


def test_f03_a_wedged_engine_is_seen_and_replaced(slots: Slots, script: Script) -> None:
    launch = Launch(limits=Limits(stall=2.0))
    slot = slots(script("alpha", wedge_after=60, length=400), launch)
    engine = slot.engine_pid()
    status, _, body = chat(slot.port, max_tokens=400)
    assert status == 500 and body["error"]["code"] == "engine_died" and "no progress" in body["error"]["message"]
    assert "no progress" in slot.log()
    (crash,) = [event for event in events.since(slot.home, "")[0] if event["kind"] == "crash"]
    assert crash["what"].startswith("the engine ended: no progress for")
    eventually(lambda: slot.state() == "ready")
    assert slot.engine_pid() != engine


def test_f08_a_torn_state_file_brings_the_backup_back(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    slot.change("swap", script("beta"))
    slot.kill()
    (slot.folder.path / "desired.json").write_text('{"version": 1, "da')
    assert verbs.restart(slot.home, slot.port).model == "alpha"


def test_f08_a_state_file_of_the_future_is_refused_and_kept(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    slot.kill()
    path = slot.folder.path / "desired.json"
    future = path.read_text().replace('"version": 1', '"version": 2', 1)
    path.write_text(future)
    with pytest.raises(LlmctlError, match="newer llmctl"):
        verbs.restart(slot.home, slot.port)
    assert path.read_text() == future
    assert "newer llmctl" in str(slot.status().why)


def test_f10_a_new_boot_voids_pids_and_brings_desired_models_back(
    slots: Slots, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = slots(script("alpha"))
    before = ProcessId(**(slot.folder.read_actual().engine or {}))
    slot.kill()
    monkeypatch.setenv("LLMCTL_BOOT_ID", "the-next-boot")
    processes.boot_id.cache_clear()
    try:
        # the same pid and start time after a boot: somebody else's process
        mine = ProcessId.of(os.getpid())
        assert mine.alive() and not replace(mine, boot=before.boot).alive()
        assert not replace(mine, boot=before.boot).signal(signal.SIGKILL)
        verbs.ensure_server(slot.home, slot.port)
        eventually(lambda: slot.state() == "ready")
        assert slot.status().model == "alpha"
        assert (slot.folder.read_actual().engine or {})["boot"] == "the-next-boot"
    finally:
        slot.kill()
        monkeypatch.undo()
        processes.boot_id.cache_clear()


def test_f11_a_reused_pid_is_never_signalled() -> None:
    mine = ProcessId.of(os.getpid())
    for other in (replace(mine, start="1"), replace(mine, start=""), ProcessId(2**22 - 1, mine.start, mine.boot)):
        assert not other.alive() and not other.signal(signal.SIGKILL)


def test_f12_a_port_of_another_program_is_refused_and_left_alone(slots: Slots, home: Path) -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        with pytest.raises(Refused, match="cannot be taken") as caught:
            verbs.ensure_server(home, port, Launch())
        assert "another program holds it" in str(caught.value.hint)
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_c01_of_many_swaps_at_once_one_wins_and_the_losers_name_it(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    specs = [script(f"m{i}", load=0.5) for i in range(8)]
    engines: set[int] = set()

    def swap(spec: SlotSpec) -> Any:
        try:
            return slot.change("swap", spec)
        except Busy as busy:
            return busy

    with ThreadPoolExecutor(8) as pool:
        outcomes = [pool.submit(swap, spec) for spec in specs]
        while not all(o.done() for o in outcomes):
            engines.add(len(_children(slot.server_pid() or 0)))
            time.sleep(0.02)
    results = [o.result() for o in outcomes]
    losers = [r for r in results if isinstance(r, Busy)]
    assert len(losers) == 7 and max(engines) <= 2
    assert all(f"pid {os.getpid()}" in loser.details["owner"] and "--lock-wait" in str(loser.hint) for loser in losers)


def test_c01_lock_wait_takes_turns(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    specs = [script(f"m{i}", load=0.3) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda spec: slot.change("swap", spec, lock_wait=60.0), specs))
    assert {r.model for r in results} == {"m0", "m1", "m2", "m3"}
    assert slot.status().model in {"m0", "m1", "m2", "m3"} and len(_children(slot.server_pid() or 0)) == 1


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_a_change_goes_on_when_its_caller_is_killed(slots: Slots, script: Script) -> None:
    from llmctl.slots import control

    slot = slots(script("alpha"))
    spec = script("beta", load=1.0)
    with socket.socket(socket.AF_UNIX) as sock, control.address(slot.folder.control) as where:
        sock.connect(where)
        args = {"verb": "swap", "spec": spec.to_dict(), "order": "auto"}
        sock.sendall(json.dumps({"verb": "change", "args": args, "owner": "someone"}).encode() + b"\n")
        sock.recv(10)
    eventually(lambda: slot.status().model == "beta")


def test_l02_a_burst_past_the_queue_gets_429_and_the_queue_drains(slots: Slots, script: Script) -> None:
    launch = Launch(limits=Limits(queue=128))
    slot = slots(script("alpha", step=0.02, length=20, parallel=8), launch)
    with ThreadPoolExecutor(512) as pool:
        answers = list(pool.map(lambda i: chat(slot.port, max_tokens=20), range(512)))
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 128 + 8
    assert all(headers["retry-after"] for status, headers, _ in answers if status == 429)
    assert slot.status().queued == 0 and chat(slot.port, max_tokens=3)[0] == 200


def test_l03_those_who_leave_free_their_place(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", step=0.05, length=250, prefill=1.0, parallel=32))
    with ThreadPoolExecutor(32) as pool:
        clients = list(pool.map(lambda _: streaming(slot.port, 150), range(32)))
    for connection, response in clients[::2]:
        response.close()
        connection.close()
    eventually(lambda: slot.status().active <= 16)
    for connection, response in clients[1::2]:
        assert sse(response.read().decode())[-1] == "[DONE]"
        connection.close()
    eventually(lambda: slot.status().active == 0)


def test_l03_a_client_that_leaves_during_the_prefill_frees_its_place(served: Slots, script: Script) -> None:
    slot = served(script("alpha", probe=Probe(expect="hi", prompt="hi"), answers={"hi": "hi"}, slow={"x": 600.0}))
    with socket.create_connection(("127.0.0.1", slot.port)) as sock:
        sock.sendall(chat_bytes({"messages": [{"role": "user", "content": "x"}], "stream": True}))
        eventually(lambda: slot.status().active == 1)
    eventually(lambda: slot.status().active == 0)


def chat_bytes(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)


def test_a_slow_reader_is_dropped_and_the_others_go_on(slots: Slots, script: Script) -> None:
    launch = Launch(limits=Limits(write_buffer=2000, read_stall=2.0))
    slot = slots(script("alpha", length=900, step=0.001, answers={"x": "y" * 4 * 900}), launch)
    slow = socket.create_connection(("127.0.0.1", slot.port))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    slow.sendall(chat_bytes({"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 900}))
    assert chat(slot.port, max_tokens=3)[0] == 200
    eventually(lambda: slot.status().active == 0)
    slow.close()


@pytest.mark.parametrize("which", ["engine", "server"])
def test_f17_a_process_that_was_stopped_goes_on_where_it_was(slots: Slots, script: Script, which: str) -> None:
    tokens = 300
    slot = slots(script("alpha", step=0.005, length=tokens))
    pid = slot.engine_pid() if which == "engine" else slot.server_pid()
    assert pid
    connection, response = streaming(slot.port, tokens)
    first = response.readline()
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(3.0)  # far more than a step, a beat, and what a socket's buffers hold
    finally:
        os.kill(pid, signal.SIGCONT)
    rows = sse((first + response.read()).decode())
    connection.close()
    text = "".join(row["choices"][0]["delta"].get("content", "") for row in rows[:-1])
    whole = chat(slot.port, "x", max_tokens=tokens)[2]["choices"][0]["message"]["content"]
    assert text == whole and rows[-1] == "[DONE]"
    assert (slot.engine_pid() if which == "engine" else slot.server_pid()) == pid and slot.state() == "ready"
