"""Slots in front of servers that are not ours: their life and death, their sleep, what clients see of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError
from llmctl.servers import Server
from llmctl.slots import verbs
from llmctl.slots.admission import Ledger
from tests.clients import chat, get, post, sse
from tests.conftest import RunningSlot, eventually, free_port
from tests.engines import odd_server
from tests.engines.odd_server import ANSWER
from tests.engines.upstream_bench import odd, spec_of

Slots = Callable[..., RunningSlot]
pytestmark = pytest.mark.slow


def spec(server: Server, model: str = "odd", load_timeout: float = 30.0, **fields: Any) -> SlotSpec:
    return SlotSpec(spec_of(server, model, load_timeout=load_timeout - 1), load_timeout=load_timeout, **fields)


@pytest.fixture
def attached() -> Iterator[odd_server.Server]:
    running = odd_server.started()
    yield running
    running.shutdown()
    running.server_close()


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def seen(slot: RunningSlot) -> dict[str, Any]:
    """What the launched server of a slot says of itself."""
    return dict(get(port_of(slot), "/seen")[2])


def port_of(slot: RunningSlot) -> int:
    """The internal port of the server below a slot's engine, which may rest."""
    words = next(w for w in map(_words, _below(slot.server_pid() or 0)) if "--id" in w and "odd_server.py" in w[1])
    return int(words[words.index("--id") - 1])


def worker_of(slot: RunningSlot) -> int:
    """The engine's process, which may rest."""
    return next(p for p in _below(slot.server_pid() or 0) if "llmctl.runner.worker" in " ".join(_words(p)))


def _below(root: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, listed[::2]), map(int, listed[1::2]), strict=True))
    found = [pid for pid, parent in parents.items() if parent == root]
    return [*found, *(pid for one in found for pid in _below(one))]


def _words(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return [""]


def answers(slot: RunningSlot) -> bool:
    status, _, said = chat(slot.port, "What is a slot?")
    return bool(status == 200 and said["choices"][0]["message"]["content"] == ANSWER)


# ── what clients see ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slot_serves_what_the_server_says(slots: Slots, attached: odd_server.Server) -> None:
    slot = slots(spec(Server(kind="vllm", url=attached.url), names=("mine",)))
    status, _, whole = chat(slot.port, "What is a slot?", model="mine")
    assert status == 200 and whole["choices"][0]["message"]["content"] == ANSWER and whole["model"] == "odd"
    assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    rows = sse(chat(slot.port, "What is a slot?", stream=True, stream_options={"include_usage": True})[2])
    assert rows[-1] == "[DONE]" and rows[-2]["usage"]["completion_tokens"] == 8
    assert "".join(row["choices"][0]["delta"].get("content") or "" for row in rows[:-2]) == ANSWER
    tool = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
    called = chat(slot.port, "call", tools=[tool])[2]["choices"][0]
    assert called["message"]["tool_calls"][0]["function"] == {"name": "clock", "arguments": '{"zone": 1}'}
    assert called["finish_reason"] == "tool_calls"
    _, _, done = post(slot.port, "/v1/completions", {"prompt": "What is a slot?", "stop": [" host"]})
    assert done["choices"][0]["text"] == "A port on a"
    status, headers, busy = chat(slot.port, "429")
    assert (status, headers["retry-after"], busy["error"]["code"]) == (429, "7", "upstream_busy")
    status, _, wrong = chat(slot.port, "x", guided_grammar='start: "a"')
    assert status == 400 and wrong["error"]["param"] == "grammar"
    assert chat(slot.port, "500")[0] == 502 and "\x1b" not in slot.log()
    counted = dict(line.split() for line in get(slot.port, "/metrics")[2].splitlines() if line[:1] != "#")
    assert float(counted["llmctl_prompt_tokens_total"]) >= 14 and float(counted["llmctl_generated_tokens_total"]) >= 16
    assert get(slot.port, "/health")[2]["verdict"] == "ok"
    hangs_up(slot, attached)


def hangs_up(slot: RunningSlot, attached: odd_server.Server) -> None:
    """A client that goes away is gone for the server too."""
    before = attached.gone
    connection = http.client.HTTPConnection("127.0.0.1", slot.port, timeout=30)
    body = {"messages": [{"role": "user", "content": "for ever"}], "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    connection.getresponse().read(100)
    assert connection.sock is None or connection.close() is None
    eventually(lambda: attached.gone > before)
    eventually(lambda: slot.status().active == 0)


def test_a_swap_between_servers_loses_nothing(slots: Slots, attached: odd_server.Server) -> None:
    slot = slots(spec(odd()))
    other = Server(kind="vllm", url=attached.url)
    assert slot.change("swap", spec(other)).order == "new-first" and answers(slot)
    assert slot.change("swap", spec(odd(place="{socket}"), model="third")).state == "ready"
    assert chat(slot.port, "What is a slot?")[2]["model"] == "third" and attached.seen


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_f01_a_server_that_dies_in_its_answer_is_an_error_and_comes_back(slots: Slots) -> None:
    slot = slots(spec(odd()))
    rows = sse(chat(slot.port, "die", stream=True)[2])
    assert rows[-1] == "[DONE]" and rows[-2]["error"]["code"] in ("upstream_gone", "upstream_cut")
    eventually(lambda: slot.state() != "ready" or "ended with exit status" in slot.log())
    eventually(lambda: slot.state() == "ready")
    assert answers(slot) and "ended with exit status 137" in slot.log()


@pytest.mark.parametrize("what", ["engine", "slot server"])
def test_f02_nothing_of_a_server_outlives_its_slot(slots: Slots, tmp_path: Path, what: str) -> None:
    brood = tmp_path / "brood"
    slot = slots(spec(odd("--brood", str(brood), "--stubborn", place="{socket}")))
    engine, server = slot.engine_pid(), slot.server_pid()
    assert engine and server
    family = _below(engine)
    pids = {int(brood.read_text()), *family}
    folders = [word.rpartition("/")[0] for pid in family for word in _words(pid) if word.endswith("/socket")]
    assert len(pids) == 3 and all(map(alive, pids)) and all(map(os.path.isdir, folders))
    os.kill(engine if what == "engine" else server, signal.SIGKILL)
    eventually(lambda: not any(map(alive, pids)))
    eventually(lambda: not any(map(os.path.exists, folders)))
    if what == "engine":
        eventually(lambda: slot.state() == "ready" and slot.engine_pid() != engine)
        assert answers(slot)


def test_variables_of_an_entry_reach_the_server_and_its_memory_is_counted(slots: Slots) -> None:
    slot = slots(spec(odd("--ballast", "300000000", env={"PYTHONPATH": "/theirs", "MINE": "1"})))
    pid = next(p for p in _below(slot.engine_pid() or 0) if "odd_server.py" in _words(p)[1])
    told = dict(row.split("=", 1) for row in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in row)
    assert told["PYTHONPATH"] == "/theirs" and told["MINE"] == "1"
    assert 300_000_000 < slot.status().memory_bytes < 500_000_000  # that of all its processes


def test_f02_the_keeper_leaves_the_ending_to_its_thread_when_that_was_faster() -> None:
    code = (
        "import os, threading; from llmctl.engines import upstream_keeper as keeper\n"
        "threading.Timer(1.0, os._exit, (7,)).start(); keeper.reap(1)"  # no child is left to wait for
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


def test_f03_a_server_that_ignores_sigterm_is_ended_all_the_same(slots: Slots, tmp_path: Path) -> None:
    brood = tmp_path / "brood"
    slot = slots(spec(odd("--brood", str(brood), "--stubborn")))
    pids = [int(brood.read_text()), *_below(slot.engine_pid() or 0)]
    assert verbs.unload(slot.home, slot.port).state == "empty"
    eventually(lambda: not any(map(alive, pids)))


def test_f15_a_server_that_never_comes_up_is_rolled_back(slots: Slots, tmp_path: Path) -> None:
    slot = slots(spec(odd()))
    for server, why in (
        (odd("--exit", "3"), "ended with exit status 3"),
        (odd("--starting", "600"), "/health answers 503"),
        (Server(command=("/no/such/program", "{port}")), "no program '/no/such/program'"),
        (odd(served="another"), "asked for another"),
        (Server(command=(*odd().command, "--no-such-option")), "ended with exit status 2"),
    ):
        with pytest.raises(LlmctlError, match=why) as caught:
            slot.change("swap", spec(server, load_timeout=3.0))
        assert caught.value.details["rolled_back_to"] == "odd" and answers(slot)
        if "exit status 3" in why:
            assert any("the weights are not there" in line for line in caught.value.details["log"])


def test_f12_a_server_that_was_there_before_is_never_ended(slots: Slots) -> None:
    port = free_port()
    argv = [*odd().command[:2], str(port), "--id", "odd"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as theirs:
        try:
            slot = slots(spec(Server(kind="vllm", url=f"http://127.0.0.1:{port}")))
            assert answers(slot)
            engine = slot.engine_pid()
            verbs.unload(slot.home, slot.port)
            slot.change("load", spec(Server(kind="vllm", url=f"http://127.0.0.1:{port}")))
            slot.kill()
            assert engine and not alive(engine) and theirs.poll() is None
        finally:
            theirs.kill()


def test_f01_an_attached_server_that_goes_is_noticed_and_found_again(slots: Slots) -> None:
    port = free_port()
    argv = [*odd().command[:2], str(port), "--id", "odd"]
    theirs = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        slot = slots(spec(Server(kind="vllm", url=f"http://127.0.0.1:{port}")))
        theirs.kill()
        theirs.wait()
        eventually(lambda: slot.state() in ("backoff", "starting"))
        assert "does not listen any more" in (slot.status().why or "")
        theirs = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        eventually(lambda: slot.state() == "ready")
        assert answers(slot)
    finally:
        theirs.kill()
        theirs.wait()


def test_s09_the_key_is_in_no_argument_and_no_log(slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_KEY", "very-secret-key")
    slot = slots(spec(odd(key_env="ODD_KEY")))
    assert answers(slot) and seen(slot)["seen"][-1]["key"] == "Bearer very-secret-key"
    for pid in _below(slot.server_pid() or 0):
        assert "very-secret-key" not in " ".join(_words(pid))
    assert "very-secret-key" not in slot.log()
    for path in slot.folder.path.rglob("*"):
        assert not path.is_file() or b"very-secret-key" not in path.read_bytes()


# ── sleep ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def sleeper(**fields: Any) -> SlotSpec:
    return spec(odd(sleep=True), idle_unload=0.5, needed_bytes=1_000_000, **fields)


def asleep(slot: RunningSlot, port: int) -> bool:
    return slot.state() == "sleeping" and bool(get(port, "/is_sleeping")[2]["is_sleeping"])


def test_a_slot_server_that_re_executes_ends_what_sleeps(slots: Slots) -> None:
    slot = slots(sleeper())
    engine = worker_of(slot)
    eventually(lambda: slot.state() == "sleeping" and slot.status().operation is None)
    assert verbs.restart(slot.home, slot.port, reexec=True).state
    assert not os.path.exists(f"/proc/{engine}")  # nor is it a zombie
    assert answers(slot)


def test_f01_an_idle_server_sleeps_and_wakes_with_its_process_and_anew_when_it_died_asleep(slots: Slots) -> None:
    slot = slots(sleeper())
    port, engine = port_of(slot), worker_of(slot)
    eventually(lambda: asleep(slot, port))
    eventually(lambda: Ledger(slot.home).reserved() == 0)
    assert alive(engine) and get(slot.port, "/health")[2]["verdict"] == "ok"
    assert answers(slot) and slot.engine_pid() == engine
    assert not get(port, "/is_sleeping")[2]["is_sleeping"] and Ledger(slot.home).reserved() > 0
    eventually(lambda: asleep(slot, port))  # and again
    assert answers(slot) and [one["path"] for one in seen(slot)["seen"]].count("/sleep?level=1") == 2
    eventually(lambda: asleep(slot, port))
    os.kill(get(port, "/seen")[2]["pid"], signal.SIGKILL)
    assert answers(slot) and worker_of(slot) != engine


def test_a_swap_and_an_unload_end_what_sleeps(slots: Slots) -> None:
    slot = slots(sleeper())
    for change in ("swap", "unload"):
        port, engine = port_of(slot), worker_of(slot)
        eventually(lambda port=port: asleep(slot, port))
        if change == "swap":
            slot.change("swap", sleeper(names=("other",)))
        else:
            verbs.unload(slot.home, slot.port)
        eventually(lambda engine=engine: not alive(engine))
    assert slot.state() == "empty" and Ledger(slot.home).reserved() == 0


def test_f03_a_server_that_cannot_sleep_is_ended_instead(slots: Slots, attached: odd_server.Server) -> None:
    attached.model = "odd"
    sleepless = Server(kind="vllm", url=attached.url, sleep=True)
    slot = slots(spec(sleepless, idle_unload=0.5))
    engine = worker_of(slot)
    attached.insomnia = True
    eventually(lambda: slot.state() == "sleeping" and not alive(engine))
    assert "does not rest" in slot.log()
    assert answers(slot)
