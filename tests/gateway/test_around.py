"""Whatever shows, asks or changes slots knows the gateway for what it is: a real one over real slots."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from llmctl.cli import chat_partner
from llmctl.cli.chat_commands import Commands
from llmctl.cli.chat_options import Meant
from llmctl.cli.chat_turns import Chat
from llmctl.cli.doctor import gateway
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.clients.conversation import Conversation
from llmctl.doctor.rows import Row
from tests.clients import get
from tests.conftest import eventually
from tests.exporter.ops import samples
from tests.gateway.around import DEEP, FAST, LATE, Machine, machine

__all__ = ["machine"]
Capture = pytest.CaptureFixture[str]


def row(envelope: dict[str, Any], port: int) -> dict[str, Any]:
    return next(dict(found) for found in envelope["data"]["slots"] if found["port"] == port)


# ── status ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_has_its_handles_and_the_slots_behind_it(machine: Machine, capsys: Capture) -> None:
    found = row(machine.llmctl(capsys, "status"), machine.ports["gateway"])
    assert (found["model"], found["engine"], found["state"]) == ("gateway", "gateway", "ready")
    assert set(found["handles"]) >= {FAST, DEEP, LATE}
    behind = {replica["where"]: replica for replica in found["replicas"]}
    assert FAST in behind[machine.where(FAST)]["handles"] and behind[machine.where(FAST)]["warm"]
    assert behind[machine.where(LATE)]["on_demand"]
    slot = row(machine.llmctl(capsys, "status"), machine.ports[FAST])
    assert slot["replicas"] == []


def test_people_see_how_many_handles_it_has_and_not_all_of_them(machine: Machine, capsys: Capture) -> None:
    code, out, _ = machine.shown(capsys, "status")
    (line,) = [line for line in out.splitlines() if f" {machine.ports['gateway']} " in line]
    count = len(machine.gateway.status().handles)
    assert code == 0 and f"{count} handles, 0 active" in line and DEEP not in line


# ── health ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def health(machine: Machine, capsys: Capture, *words: str, code: int = 0) -> dict[str, Any]:
    return row(machine.llmctl(capsys, "health", *words, code=code), machine.ports["gateway"])


def tokens(machine: Machine, handle: str) -> float:
    """Those that the gateway has seen made for a handle."""
    page = get(machine.ports["gateway"], "/metrics")[2]
    return samples(page).get(f'llmctl_gateway_tokens_total{{handle="{handle}",key="",kind="completion"}}', 0.0)


def test_health_has_a_token_through_it_and_its_figures_are_of_that_handle(machine: Machine, capsys: Capture) -> None:
    from llmctl.history.store import History

    asked = machine.gateway.status().handles[0]
    before, came = machine.slot(FAST).status().since, tokens(machine, asked)
    found = health(machine, capsys)
    assert (found["verdict"], found["why"]) == ("ok", None) and found["first_token"] > 0
    assert tokens(machine, asked) == came + 1
    with History.open(machine.home / "history.db", write=False) as history:
        firsts, _ = history.figures("here", machine.ports["gateway"], f"gateway/{asked}")
        assert len(firsts) == 1
        assert history.figures("here", machine.ports["gateway"], "gateway") == ([], [])
    assert machine.slot(FAST).status().since == before
    late = machine.llmctl(capsys, "status", machine.where("gateway"))["data"]["slots"][0]["replicas"]
    assert [one["warm"] for one in late if one["on_demand"]] == [False], "a health run has loaded it"


def test_a_handle_that_does_not_answer_degrades_the_gateway_and_its_slot_is_down(
    machine: Machine, capsys: Capture
) -> None:
    handle, engine = machine.gateway.status().handles[0], machine.slot(FAST).engine_pid() or 0
    os.kill(engine, signal.SIGSTOP)
    try:
        envelope = machine.llmctl(capsys, "health", "--timeout", "2s", code=1)
    finally:
        os.kill(engine, signal.SIGCONT)
    found = {one["port"]: one for one in envelope["data"]["slots"]}
    assert found[machine.ports[FAST]]["verdict"] == "down"
    gateway = found[machine.ports["gateway"]]
    assert gateway["verdict"] == "degraded" and f"{handle} does not answer through it" in gateway["why"]
    assert health(machine, capsys)["verdict"] == "ok"


def test_f2_a_gateway_that_was_killed_is_down_and_healed(machine: Machine, capsys: Capture) -> None:
    machine.gateway.kill()
    found = health(machine, capsys, code=1)
    assert (found["verdict"], found["findings"][0]["code"]) == ("down", "no_server")
    found = health(machine, capsys, "--heal")
    assert (found["verdict"], found["healed"]) == ("ok", "restarted"), found
    machine.settled()
    events = machine.llmctl(capsys, "history", "--sync", "--slot", machine.where("gateway"))["data"]["events"]
    kinds = [event["kind"] for event in events]
    assert {"load", "restart", "incident", "heal", "recovered"} == set(kinds) and kinds[0] == "load", kinds


def test_f8_a_registry_without_sense_degrades_it_and_it_goes_on(machine: Machine, capsys: Capture) -> None:
    path = machine.home / "gateway" / "registry.json"
    whole = path.read_text()
    try:
        path.write_text("{")
        eventually(lambda: machine.gateway.status().why)
        found = health(machine, capsys, code=3)
        assert (found["verdict"], found["findings"][0]["fix"]) == ("degraded", "llmctl handles check")
        assert found["first_token"] > 0
        _, out, _ = machine.shown(capsys, "status", machine.where("gateway"))
        assert "registry.json" in out
    finally:
        path.write_text(whole)
        eventually(lambda: not machine.gateway.status().why)


def test_a_handle_without_a_slot_degrades_it_and_nobody_restarts_it(machine: Machine, capsys: Capture) -> None:
    from llmctl.slots import verbs

    pid = machine.gateway.server_pid()
    verbs.disable(machine.home, machine.ports[DEEP], "new fan")
    os.kill(machine.slot(DEEP).server_pid() or 0, signal.SIGKILL)
    try:
        eventually(lambda: any(one["resting"] and DEEP in one["handles"] for one in machine.gateway.status().replicas))
        found = health(machine, capsys, "--heal", code=3)
        assert found["verdict"] == "degraded" and f"no slot answers for {DEEP}, beta (" in found["why"]
        assert machine.gateway.server_pid() == pid
    finally:
        verbs.enable(machine.home, machine.ports[DEEP])
        machine.settled()
    assert health(machine, capsys)["verdict"] == "ok"


# ── what is done to models ──────────────────────────────────────────────────────────────────────────────────────────


REFUSED = [("load", "PORT", "beta"), ("swap", "PORT", "beta"), ("unload", "PORT"), ("disable", "PORT", "--why", "x")]


@pytest.mark.parametrize("up", [True, False])
def test_a_verb_of_models_is_refused_whether_the_gateway_runs_or_not(
    machine: Machine, capsys: Capture, up: bool
) -> None:
    from llmctl.gateway import life

    if not up:
        machine.gateway.kill()
    where = machine.where("gateway")
    for words in REFUSED:
        (error,) = machine.llmctl(capsys, *(where if word == "PORT" else word for word in words), code=1)["errors"]
        assert "is the gateway" in error["message"] and "llmctl gateway down" in error["hint"], words
        assert (machine.gateway.server_pid() is not None) == up, words
    assert life.up(machine.home, machine.ports["gateway"], machine.gateway.launch) != up
    machine.settled()


def test_a_profile_neither_prunes_the_gateway_nor_takes_its_port(machine: Machine, capsys: Capture) -> None:
    found = machine.llmctl(capsys, "plan", "--prune")["data"]["steps"]
    assert machine.ports["gateway"] not in {step["port"] for step in found}
    machine.llmctl(capsys, "--yes", "apply", "--prune")
    assert machine.gateway.state() == "ready"
    greedy = machine.config / "profiles" / "greedy.toml"
    greedy.write_text(f'[[slots]]\nport = {machine.ports["gateway"]}\nmodel = "beta"\n')
    try:
        (error,) = machine.llmctl(capsys, "--yes", "profile", "load", "greedy", code=1)["errors"]
        assert "is the gateway" in error["message"]
    finally:
        greedy.unlink()


def test_models_are_removed_and_forgotten_beside_a_gateway(machine: Machine, capsys: Capture) -> None:
    (error,) = machine.llmctl(capsys, "models", "rm", "gateway", code=2)["errors"]
    assert error["code"] == "unknown_name", error
    assert machine.llmctl(capsys, "--yes", "models", "gc", "--dry-run")["data"]["leftovers"] == []


def test_the_registry_of_models_and_a_saved_profile_have_no_gateway(machine: Machine, capsys: Capture) -> None:
    lanes = machine.llmctl(capsys, "registry", "export")["data"]["registry"]["lanes"]
    assert str(machine.ports[FAST]) in lanes and str(machine.ports["gateway"]) not in lanes
    findings = machine.llmctl(capsys, "registry", "check", code=None)["data"]["findings"]
    assert not [one for one in findings if "gateway" in str(one)], findings
    text = machine.llmctl(capsys, "profile", "save", "copy", "--dry-run")["data"]["text"]
    assert str(machine.ports[DEEP]) in text and "gateway" not in text


def test_proofs_and_measurements_are_of_slots(machine: Machine, capsys: Capture) -> None:
    rows = machine.llmctl(capsys, "smoke", "here", "--no-proof")["data"]["rows"]
    assert {one["port"] for one in rows} == {machine.ports[FAST], machine.ports[DEEP]}
    (only,) = machine.llmctl(capsys, "smoke", machine.where("gateway"), "--no-proof", code=5)["data"]["rows"]
    assert only["status"] == "skip" and "no model of its own" in only["why"]
    (error,) = machine.llmctl(capsys, "bench", "run", machine.where("gateway"), code=1)["errors"]
    assert "is the gateway" in error["message"] and "--compare" in error["hint"]
    words = ("--new", "4", "--prompt", "8", "--runs", "1", "--no-proof")
    both = machine.llmctl(
        capsys, "bench", "run", machine.where(FAST), "--compare", machine.ports["gateway"], *words
    )  # fmt: skip
    assert both["data"]["cells"] and str(machine.ports["gateway"]) in both["data"]["other"]
    assert machine.llmctl(capsys, "test-models", "--engine", "scripted", code=5)["errors"] == []


# ── who asks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(machine: Machine, capsys: Capture, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = machine.llmctl(capsys, *words)["data"]
    return found


def test_ask_and_chat_go_over_the_gateway_to_a_handle(machine: Machine, capsys: Capture) -> None:
    found = asked(machine, capsys, "ask", "-m", DEEP, "Who?")
    assert (found["answer"], found["port"], found["handle"]) == ("I am beta.", machine.ports["gateway"], DEEP)
    found = asked(machine, capsys, "chat", "-m", FAST, "-p", "Who?")
    assert (found["answer"], found["handle"]) == ("I am alpha.", FAST)
    direct = asked(machine, capsys, "ask", machine.where(DEEP), "Who?")
    assert (direct["answer"], direct["port"], "handle" in direct) == ("I am beta.", machine.ports[DEEP], False)
    by_name = asked(machine, capsys, "ask", DEEP, "Who?")
    assert (by_name["port"], "handle" in by_name) == (machine.ports[DEEP], False), "a slot that serves it is nearer"
    assert asked(machine, capsys, "ask", machine.where("gateway"), "Who?")["port"] == machine.ports["gateway"]


def test_a_chat_over_the_gateway_goes_on_with_another_handle(machine: Machine) -> None:
    with Reach(Session()) as reach:
        chat = Chat(chat_partner.of(reach, Meant(model=FAST)), Conversation())
        commands = Commands(chat, reach)
        assert FAST in commands.run("/models").splitlines()[0] and machine.where("gateway") not in commands.run(
            "/models"
        )
        assert DEEP in commands.run(f"/switch {DEEP}")
        assert chat.partner.data == {"host": "here", "port": machine.ports["gateway"], "handle": DEEP}
        commands.run(f"/switch {machine.where(FAST)}")
        assert chat.partner.data == {"host": "here", "port": machine.ports[FAST]}


def test_a_handle_that_the_gateway_does_not_know_is_looked_for_among_slots(machine: Machine, capsys: Capture) -> None:
    machine.gateway.kill()
    try:
        assert asked(machine, capsys, "ask", "-m", DEEP, "Who?")["port"] == machine.ports[DEEP]
    finally:
        machine.llmctl(capsys, "restart", machine.where("gateway"))
        machine.settled()
    (error,) = machine.llmctl(capsys, "ask", "-m", "nobody", "Who?", code=1)["errors"]
    assert "no slot serves 'nobody'" in error["message"]
    (error,) = machine.llmctl(capsys, "ask", machine.where(FAST), "Who?", "-m", DEEP, code=2)["errors"]
    assert "both say who" in error["message"]


def test_client_config_names_the_gateway_and_its_handles(machine: Machine, capsys: Capture) -> None:
    base = f"http://127.0.0.1:{machine.ports['gateway']}"
    found = asked(machine, capsys, "client-config", "openai", DEEP)
    assert (found["base_url"], found["model"], found["aliases"], found["context"]) == (base, DEEP, [], 512)
    assert f"export OPENAI_BASE_URL={base}/v1" in found["parts"][0]["text"]
    assert any(note.startswith("other handles: ") and FAST in note for note in found["notes"])
    by_default = asked(machine, capsys, "client-config", "litellm")
    assert (by_default["base_url"], by_default["model"]) == (base, machine.gateway.status().handles[0])
    direct = asked(machine, capsys, "client-config", "openai", FAST, "--via", "slot")
    assert (direct["port"], direct["model"]) == (machine.ports[FAST], "alpha")
    assert asked(machine, capsys, "client-config", "openai", machine.where(FAST))["port"] == machine.ports[FAST]
    assert asked(machine, capsys, "client-config", "openai", machine.where("gateway"))["aliases"] == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("nobody", "--via", "gateway"), 2, "no gateway knows the handle 'nobody'"),
        (("8101", "--via", "gateway"), 2, "takes a handle, and 8101 is a port"),
        (("fast", "--via", "magic"), 2, "--via 'magic' is none"),
    ],
)
def test_a_way_that_there_is_not(
    machine: Machine, capsys: Capture, words: tuple[str, ...], code: int, says: str
) -> None:
    (error,) = machine.llmctl(capsys, "client-config", "openai", *words, code=code)["errors"]
    assert says in error["message"] and error["hint"]


# ── doctor ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def doctor() -> Row:
    """The only row about the gateway."""
    (found,) = gateway(Session(json=True))
    return found


def test_doctor_has_nothing_to_say_of_a_gateway_that_is_well(machine: Machine, capsys: Capture) -> None:
    machine.llmctl(capsys, "handles", "sync")
    rows = machine.llmctl(capsys, "doctor", "here", code=None)["data"]["rows"]
    (found,) = [one for one in rows if one["check"] == "gateway"]
    assert (found["status"], str(machine.ports["gateway"]) in found["why"]) == ("pass", True), found
    assert doctor().why == found["why"]


def test_doctor_finds_a_registry_that_is_older_than_the_profiles(machine: Machine, capsys: Capture) -> None:
    profile = machine.config / "profiles" / "all.toml"
    whole = profile.read_text()
    profile.write_text(whole.replace('handle = "fast"', 'handle = "quick"'))
    try:
        found = doctor()
        assert (found.status, found.fix) == ("warn", "llmctl handles sync") and "quick" in found.why
        machine.llmctl(capsys, *found.fix.split()[1:])
        assert doctor().status == "pass"
    finally:
        profile.write_text(whole)
        machine.llmctl(capsys, "handles", "sync")
    (machine.home / "gateway" / "registry.json").write_text("{")
    found = doctor()
    assert (found.status, found.fix) == ("fail", "llmctl handles sync")
    machine.llmctl(capsys, "handles", "sync")
    eventually(lambda: not machine.gateway.status().why)


def test_doctor_finds_a_gateway_that_is_down_or_cannot_start(
    machine: Machine, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.gateway.kill()
    found = doctor()
    assert (found.status, found.fix) == ("fail", f"llmctl restart {machine.ports['gateway']}")
    machine.llmctl(capsys, "restart", machine.where("gateway"))
    machine.settled()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = doctor()
    assert found.status == "fail" and "httptools" in found.why and "pip install" in found.fix


def test_doctor_finds_a_door_that_is_open_beyond_loopback(machine: Machine, capsys: Capture) -> None:
    up = ("gateway", "up", "--port", machine.ports["gateway"])
    machine.llmctl(capsys, "gateway", "down", "--port", machine.ports["gateway"])
    machine.llmctl(capsys, *up, "--bind", "0.0.0.0")
    try:
        found = doctor()
        assert (found.status, found.fix) == ("warn", "llmctl gateway keys add NAME"), found
        machine.settled()
        assert health(machine, capsys)["verdict"] == "ok", "it is asked with the key of the machine"
        machine.llmctl(capsys, "gateway", "keys", "add", "ann")
        assert doctor().status == "pass"
        (machine.home / "gateway" / "keys.json").write_text("[]")
        assert doctor().status == "fail"
    finally:
        (machine.home / "gateway" / "keys.json").unlink(missing_ok=True)
        machine.llmctl(capsys, "gateway", "down", "--port", machine.ports["gateway"])
        machine.llmctl(capsys, *up)
        machine.settled()
    kinds = [event["kind"] for event in machine.llmctl(
        capsys, "history", "--sync", "--slot", machine.where("gateway"))["data"]["events"]]  # fmt: skip
    assert kinds.count("unload") == 2 and kinds.count("load") >= 3
