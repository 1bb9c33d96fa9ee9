"""The gateway as a slot: up, down, asked, restarted, re-executed, and found by what looks at slots."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from llmctl import keys
from llmctl.domain import GATEWAY, Limits, OnDemand, SlotSpec
from llmctl.errors import Busy, Refused, Unreachable
from llmctl.files import write_json
from llmctl.gateway import hosts, life, registry
from llmctl.gateway.litellm_server import LiteLlmServer
from llmctl.gateway.registry import Registry
from llmctl.gateway.server import GatewayServer
from llmctl.health import here
from llmctl.runner.port_server import PortServer
from llmctl.slots import verbs
from llmctl.slots.state import Launch, SlotFolder
from tests.conftest import RunningSlot, eventually, free_port
from tests.gateway.conftest import Start, handle
from tests.gateway.test_traffic import CHAT, chat

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]


def test_up_is_once_down_is_for_good_and_a_slot_is_no_gateway(slots: Slots, script: Script, gateway: Start) -> None:
    slot = slots(script("alpha"))
    gate = gateway(handle("alpha", slot))
    assert not life.up(gate.home, gate.port, gate.launch)
    assert (gate.status().model, gate.status().engine, gate.status().handles) == (GATEWAY, GATEWAY, ("alpha",))
    for options in ({"require_key": True}, {"bind": "0.0.0.0"}, {"on_demand": OnDemand(patience=5.0)}):
        with pytest.raises(Refused, match=f"another {next(iter(options))}"):  # it would go on without it
            life.up(gate.home, gate.port, replace(gate.launch, **options))
    with pytest.raises(Refused, match="holds alpha"):
        life.up(slot.home, slot.port, slot.launch)
    with pytest.raises(Refused, match="no gateway"):
        life.down(slot.home, slot.port)
    life.down(gate.home, gate.port)
    assert gate.status().state == "empty"
    with pytest.raises(Unreachable, match="no gateway answers"):
        life.status(gate.home, gate.port)
    assert life.up(gate.home, gate.port, gate.launch) and chat(gate.port, max_tokens=2).status_code == 200


def test_verbs_of_models_are_refused_by_name(slots: Slots, script: Script, gateway: Start) -> None:
    gate = gateway(handle("alpha", slots(script("alpha"))))
    for verb in (lambda: gate.change("swap", script("beta")), lambda: verbs.unload(gate.home, gate.port)):
        with pytest.raises(Refused, match="is the gateway"):
            verb()
    assert verbs.restart(gate.home, gate.port).model == GATEWAY


def test_it_is_re_executed_without_losing_a_request(slots: Slots, script: Script, gateway: Start) -> None:
    gate = gateway(handle("alpha", slots(script("alpha", step=0.01))))
    before, over, codes = gate.server_pid(), threading.Event(), list[int]()

    def ask() -> None:
        while not over.is_set():
            codes.append(chat(gate.port, max_tokens=20, stream=len(codes) % 2 == 0).status_code)

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    eventually(lambda: len(codes) > 8)
    verbs.restart(gate.home, gate.port, reexec=True)
    so_far = len(codes)
    eventually(lambda: len(codes) > so_far + 8)
    over.set()
    for thread in asking:
        thread.join()
    assert set(codes) == {200} and gate.server_pid() == before
    assert "re-executes" in gate.log()


def test_a_client_that_was_told_to_keep_its_connection_may_ask_once_more(
    slots: Slots, script: Script, gateway: Start
) -> None:
    gate = gateway(handle("alpha", slots(script("alpha", step=0.05, length=60))))
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 60, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=60)
    connection.request("POST", CHAT, json.dumps(body))
    answer = connection.getresponse()  # its head has come
    assert answer.getheader("connection") != "close"
    upgrade = threading.Thread(target=lambda: verbs.restart(gate.home, gate.port, reexec=True))
    upgrade.start()
    assert answer.read().rstrip().endswith(b"[DONE]")
    while answer.getheader("connection") != "close":
        connection.request("POST", CHAT, json.dumps({**body, "max_tokens": 2, "stream": False}))
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
    upgrade.join()


def test_a_client_that_keeps_its_connection_and_asks_no_more_holds_nothing_up(
    slots: Slots, script: Script, gateway: Start
) -> None:
    launch = Launch(limits=Limits(drain=15.0))
    gate = gateway(handle("alpha", slots(script("alpha", step=0.05, length=80))), launch=launch)
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=60)
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 80, "stream": True}
    connection.request("POST", CHAT, json.dumps(body))
    answer = connection.getresponse()
    with ThreadPoolExecutor(1) as pool:
        upgrade = pool.submit(lambda: verbs.restart(gate.home, gate.port, reexec=True))
        assert answer.read().rstrip().endswith(b"[DONE]")
        upgrade.result(60)  # Refused where it waits for the client
    connection.close()


def test_health_sees_it_and_a_registry_that_makes_no_sense(slots: Slots, script: Script, gateway: Start) -> None:
    from llmctl.health import verdict

    gate = gateway(handle("alpha", slots(script("alpha"))))
    seen = here.slot(gate.home, gate.status(), 5.0)
    assert verdict.slot("h", seen, verdict.Baseline()).verdict == verdict.OK
    registry.path(gate.home).write_text("{")
    eventually(lambda: life.status(gate.home, gate.port)["why"])
    judged = verdict.slot("h", here.slot(gate.home, gate.status(), 5.0), verdict.Baseline())
    assert judged.verdict == verdict.DEGRADED and judged.findings[0].fix == "llmctl handles check"


BAD = ["[" * 100_000, "", "7", '{"version": 1, "data": 7}', '{"version": 1, "data": {"keys": 7, "handles": 7}}']


def test_files_that_somebody_spoilt_end_nothing(slots: Slots, script: Script, gateway: Start) -> None:
    good = handle("alpha", slots(script("alpha")))
    gate = gateway(good)
    for bad in BAD:
        hosts.path(gate.home).write_text(bad)
        registry.path(gate.home).write_text(bad)
        eventually(lambda: life.status(gate.home, gate.port)["why"])
        assert chat(gate.port, "alpha", max_tokens=2).status_code == 200
        registry.write(gate.home, Registry({"alpha": good}, "alpha"))
        eventually(lambda: not life.status(gate.home, gate.port)["why"])


def test_the_watch_goes_on_after_a_look_that_failed(slots: Slots, script: Script, gateway: Start) -> None:
    alpha = handle("alpha", slots(script("alpha")))
    gate = gateway(alpha)

    def follows(*names: str) -> None:
        registry.write(gate.home, Registry({name: replace(alpha, name=name) for name in names}, "alpha"))
        eventually(lambda: life.status(gate.home, gate.port)["handles"] == [*names])

    write_json(hosts.path(gate.home), {"config": None, "keys": {"here": "\udcff"}})  # no header can say that
    follows("alpha", "more")
    hosts.path(gate.home).unlink()
    follows("alpha", "other")


def test_an_address_that_is_none_is_a_replica_that_is_away(slots: Slots, script: Script, gateway: Start) -> None:
    right = handle("alpha", slots(script("alpha")))
    wrong = [
        replace(right, name=f"wrong{n}", replicas=(replace(right.replicas[0], host=f"h{n}", address=address),))
        for n, address in enumerate(["nonsense", "127.0.0.1:99999999", f"{'x' * 70}.y:1"])
    ]
    gate = gateway(right, *wrong)
    for one in wrong:
        refused = chat(gate.port, one.name, max_tokens=2)
        assert refused.status_code == 503 and "no connection" in refused.json()["error"]["message"]
    assert chat(gate.port, "alpha", max_tokens=2).status_code == 200


def test_beyond_loopback_it_wants_a_key_and_takes_those_of_its_clients(
    slots: Slots, script: Script, gateway: Start
) -> None:
    from llmctl.gateway import callers
    from llmctl.gateway.limits import Allowed

    slot = slots(script("alpha"))
    keys.show(slot.home)
    gate = gateway(handle("alpha", slot), handle("other", slot), launch=Launch(require_key=True))
    url, body = f"http://127.0.0.1:{gate.port}/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}

    def ask(key: str | None, model: str = "alpha") -> int:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = httpx.post(url, json={**body, "model": model, "max_tokens": 2}, headers=headers, trust_env=False)
        return answer.status_code

    assert [ask(None), ask(""), ask("x"), ask(keys.show(slot.home)["client"])] == [401, 401, 401, 200]
    key = callers.add(gate.home, "ann", Allowed(handles=("alpha",), requests=2))
    eventually(lambda: ask(key) == 200)
    assert ask(key, "other") == 403
    assert ask(key) == 200 and ask(key) == 429
    callers.revoke(gate.home, "ann")
    eventually(lambda: ask(key) == 401)
    log = (gate.folder.path / "requests.log").read_text()
    rows = [json.loads(line.split("request: ")[1]) for line in log.splitlines() if "request: " in line]
    assert {row["key"] for row in rows} == {None, "ann"} and key not in log and "content" not in log
    assert os.stat(gate.home / "gateway" / "keys.json").st_mode & 0o077 == 0


def test_a_gateway_beyond_loopback_without_a_key_does_not_start(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    with pytest.raises(Refused, match="needs a key"):
        life.up(slot.home, free_port(), Launch(require_key=True))


@pytest.mark.parametrize("kind", [GatewayServer, LiteLlmServer])
def test_of_two_upgrades_at_once_one_is_refused(kind: type[PortServer], home: Path) -> None:
    server = kind.__new__(kind)
    server.folder, server._claimed = SlotFolder(home, 8090), None  # type: ignore[attr-defined]
    server.claim("upgrade", "ann")
    with pytest.raises(Busy, match="upgrade goes on"):
        server.claim("move", "bob")
    server.release()
    server.claim("move", "bob")
