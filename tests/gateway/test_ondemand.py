"""Models that are loaded when somebody asks, over a real gateway, real slots and llmctl's own command line."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from llmctl import events
from llmctl.__main__ import main
from llmctl.domain import OnDemand
from llmctl.files import read_json, write_json
from llmctl.gateway import life, stays
from llmctl.slots import verbs
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually, free_port

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
TIMES = OnDemand(told=0.2, every=0.2, patience=60.0, turn=3.0, requests=12)
MODELS: dict[str, dict[str, Any]] = {
    "alpha": {"answers": {"hi": "I am alpha."}},
    "beta": {"answers": {"hi": "I am beta."}},
    "broken": {"fail": "load"},
    "stuck": {"fail": "hang"},
    "slow": {"load": 2.0},
    "large": {"needed": 900_000_000},
    "steady": {"answers": {"hi": "I am steady."}, "needed": 1_000_000},
    "half": {"fail": "load", "needed": 1_000_000},
    "sound": {"answers": {"hi": "I am sound."}, "needed": 1_000_000},
    "gone": {},
}
PROFILE = """
[[slots]]
port = {alpha}
model = "alpha"
handle = "a"
on_demand = true
[[slots]]
port = {beta}
model = "beta"
on_demand = true
[[slots.handles]]
name = "b"
keep_alive = "1h"
[[slots]]
port = {broken}
model = "broken"
on_demand = true
handle = "broken-alone"
[[slots.handles]]
name = "broken-with"
fallbacks = ["steady"]
[[slots]]
port = {stuck}
model = "stuck"
on_demand = true
handle = "stuck"
[[slots]]
port = {slow}
model = "slow"
on_demand = true
handle = "slow"
[[slots]]
port = {large}
model = "large"
on_demand = true
handle = "large"
[[slots]]
port = {steady}
model = "steady"
on_demand = true
pinned = true
handle = "steady"
[[slots]]
port = {half}
model = "half"
on_demand = true
handles = [{{ name = "either", group = "either" }}]
[[slots]]
port = {sound}
model = "sound"
on_demand = true
handles = [{{ name = "either", group = "either" }}]
[[slots]]
port = {gone}
model = "gone"
[[slots.handles]]
name = "gone"
fallbacks = ["steady"]
"""


@dataclass
class Fleet:
    """A gateway over slots that are all on demand; of alpha and beta one fits at a time."""

    home: Path
    gateway: RunningSlot
    slots: dict[str, RunningSlot]

    def ask(self, model: str, keep: str | None = None, *, path: str = CHAT, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": HI, **fields}
        headers = {"x-llmctl-keep-alive": keep} if keep else {}
        return httpx.post(f"{self.gateway.base_url}{path}", json=body, headers=headers, timeout=90, trust_env=False)

    def answer(self, model: str, keep: str | None = None) -> str:
        found = self.ask(model, keep)
        assert found.status_code == 200, found.text
        return str(found.json()["choices"][0]["message"]["content"])

    def loaded(self) -> set[str]:
        return {name for name, slot in self.slots.items() if slot.folder.path.exists() and slot.state() == "ready"}

    def loads(self, outcome: str = events.OK) -> list[str]:
        """The models that were loaded, in their order."""
        rows = [json.loads(line) for line in (self.home / events.NAME).read_text().splitlines()]
        return [row["model"] for row in rows if row["kind"] == "load" and row["outcome"] == outcome]

    def status(self) -> dict[str, Any]:
        return life.status(self.home, self.gateway.port)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    patch = pytest.MonkeyPatch()
    home, config = Path(tempfile.mkdtemp(prefix="llm-")), Path(tempfile.mkdtemp(prefix="llm-conf-"))
    ports = {name: free_port() for name in MODELS}
    entries = ""
    for name, play in MODELS.items():
        (config / f"{name}.json").write_text(json.dumps({"needed": 40_000_000, **play}))
        most = 3 if name == "stuck" else 60
        entries += f'[models.{name}]\nload_timeout = "{most}s"\n'
        entries += f'artifacts = [{{ format = "script", path = "{name}.json" }}]\n'
    (config / "models.toml").write_text(entries)
    (config / "hosts.toml").write_text('[hosts.here]\nmemory_budget = "70MB"\n')
    (config / "profiles").mkdir()
    (config / "profiles" / "demand.toml").write_text(PROFILE.format(**ports))
    patch.setenv("LLMCTL_HOME", str(home))
    patch.setenv("LLMCTL_CONFIG", str(config))
    slots = {name: RunningSlot(home, port, Launch()) for name, port in ports.items()}
    gateway = RunningSlot(home, free_port(), Launch(on_demand=TIMES))
    assert main(["--json", "handles", "sync"]) == 0
    life.up(home, gateway.port, gateway.launch)
    yield Fleet(home, gateway, slots)
    for one in (gateway, *slots.values()):
        one.kill()
    patch.undo()
    shutil.rmtree(home)
    shutil.rmtree(config)


def many(ask: Callable[[], Any], count: int) -> list[threading.Thread]:
    """So many threads that each do it once."""
    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_the_first_request_loads_and_the_idle_one_makes_room(fleet: Fleet) -> None:
    found: list[str] = []
    for thread in many(lambda: found.append(fleet.answer("a")), 4):
        thread.join()
    assert found == ["I am alpha."] * 4 and fleet.loads().count("alpha") == 1
    assert fleet.answer("b") == "I am beta." and fleet.loaded() == {"beta"}
    assert fleet.status()["loads"] == []


def test_two_models_that_do_not_lie_together_take_turns(fleet: Fleet) -> None:
    """Without turns those who never stop asking for one would keep the other away; by each request in turn, each would
    cost a load."""
    before, over, said = len(fleet.loads()), threading.Event(), dict[str, list[str]](a=[], b=[])

    def ask(handle: str) -> None:
        while not over.is_set():
            said[handle].append(fleet.answer(handle))

    def each_made_way() -> bool:
        loads = fleet.loads()[before:]
        return "beta" in loads and "alpha" in loads[loads.index("beta") :]

    asking = many(lambda: ask("a"), 2)
    eventually(lambda: len(said["a"]) > 4)
    asking += many(lambda: ask("b"), 1)
    eventually(each_made_way)
    over.set()
    for thread in asking:
        thread.join()
    assert set(said["a"]) == {"I am alpha."} and set(said["b"]) == {"I am beta."}
    loads, requests = fleet.loads()[before:], sum(map(len, said.values()))
    assert len(loads) <= 4 and requests > 2 * TIMES.requests, f"{requests} requests took {loads}"
    assert fleet.status()["loads"] == []


def test_a_load_that_fails_goes_to_the_fallbacks_or_says_why(fleet: Fleet) -> None:
    assert fleet.answer("broken-with") == "I am steady."
    error = fleet.ask("broken-alone")
    assert error.status_code == 503 and error.json()["error"]["code"] == "load_failed"
    assert "the script says that loading fails" in error.json()["error"]["message"]
    large = fleet.ask("large").json()["error"]
    assert "needs 0.90 GB" in large["message"] and "llmctl status" in large["hint"]


def test_a_load_that_fails_goes_to_another_replica_first_and_later_begins_there(fleet: Fleet) -> None:
    assert fleet.answer("either") == "I am sound."
    verbs.unload(fleet.home, fleet.slots["sound"].port)
    assert fleet.answer("either") == "I am sound."
    assert fleet.loads(events.FAILED).count("half") == 1


def test_the_fallback_of_a_slot_that_is_down_is_loaded(fleet: Fleet) -> None:
    verbs.unload(fleet.home, fleet.slots["steady"].port)
    assert fleet.answer("gone") == "I am steady."


def test_a_slot_that_is_disabled_is_not_loaded(fleet: Fleet) -> None:
    port = fleet.slots["alpha"].port
    verbs.disable(fleet.home, port, "for the test")
    try:
        error = fleet.ask("a").json()["error"]
    finally:
        verbs.enable(fleet.home, port)
    assert error["code"] == "load_failed" and "alpha is disabled" in error["message"]


def test_f15_a_load_that_hangs_ends_at_its_time(fleet: Fleet) -> None:
    rows = fleet.ask("stuck", stream=True).text.split("\n\n")
    assert rows[0].startswith(": loading stuck: ") and rows[-2] == "data: [DONE]"
    assert "was not ready within 3 s" in json.loads(rows[-3].removeprefix("data: "))["error"]["message"]


def test_a_client_that_hangs_up_while_it_waits_leaves_no_trace(fleet: Fleet) -> None:
    with pytest.raises(httpx.TimeoutException):
        body = {"model": "slow", "messages": HI}
        httpx.post(f"{fleet.gateway.base_url}{CHAT}", json=body, timeout=0.5, trust_env=False)
    assert fleet.status()["loads"][0]["where"] == f"here:{fleet.slots['slow'].port}"
    eventually(lambda: fleet.status()["loads"][0]["waiting"] == 0)
    eventually(lambda: not fleet.status()["loads"])
    assert "slow" in fleet.loaded(), "a load that has begun goes on"
    assert not any(row["requests"] for row in fleet.status()["replicas"])


def test_keep_alive_is_a_requests_word_and_outlives_the_gateways_process(fleet: Fleet) -> None:
    wrong = [fleet.ask("a", "soon"), fleet.ask("a", path="/api/chat", keep_alive="soon", stream=False)]
    assert [one.status_code for one in wrong] == [400, 400] and "keep_alive must be" in wrong[1].json()["error"]
    assert fleet.ask("a", path="/api/chat", keep_alive=0, stream=False).status_code == 200
    eventually(lambda: "alpha" not in fleet.loaded())
    file, beta = fleet.home / "gateway" / stays.NAME, f"here:{fleet.slots['beta'].port}"
    fleet.answer("b", "2h")
    eventually(lambda: (read_json(file) or {}).get(beta) == 7200)
    write_json(file, {beta: 0.1})  # so that only a process that has read it ends the model
    pid = fleet.gateway.server_pid()
    verbs.restart(fleet.home, fleet.gateway.port, reexec=True)
    eventually(lambda: "beta" not in fleet.loaded())
    log = fleet.gateway.log()
    assert fleet.gateway.server_pid() == pid and log.rindex("re-executes") < log.rindex("beta is unloaded")
    assert fleet.answer("steady", "0") == "I am steady."
    assert fleet.answer("b") == "I am beta."
    assert {"beta", "steady"} <= fleet.loaded(), "what is pinned stays, and the handle's own time holds again"


def test_a_websocket_waits_for_its_model(fleet: Fleet) -> None:
    with connect(f"ws://127.0.0.1:{fleet.gateway.port}/ws?model=a", open_timeout=60) as socket:
        socket.send("{}")
        assert json.loads(socket.recv(10))["model"] == "alpha"


def test_a_model_that_went_behind_the_gateways_back_costs_no_request(fleet: Fleet) -> None:
    assert fleet.answer("a") == "I am alpha."
    verbs.unload(fleet.home, fleet.slots["alpha"].port)
    assert fleet.answer("a") == "I am alpha."
    fleet.slots["alpha"].kill()
    assert fleet.answer("a") == "I am alpha."


def test_ollamas_clients_list_and_unload_models_without_loading_them(fleet: Fleet) -> None:
    def running() -> set[str]:
        rows = httpx.get(f"{fleet.gateway.base_url}/api/ps", trust_env=False).json()["models"]
        return {row["name"] for row in rows}

    assert fleet.answer("a") == "I am alpha." and "a" in running()
    before = len(fleet.loads())
    said = httpx.post(f"{fleet.gateway.base_url}/api/generate", json={"model": "a", "keep_alive": 0}, trust_env=False)
    assert said.status_code == 200 and said.json()["done_reason"] == "unload"
    eventually(lambda: "alpha" not in fleet.loaded())
    eventually(lambda: "a" not in running())
    shown = httpx.post(f"{fleet.gateway.base_url}/api/show", json={"model": "a"}, trust_env=False)
    assert shown.status_code == 200 and shown.json()["capabilities"] == ["completion"]
    assert len(fleet.loads()) == before and fleet.status()["loads"] == []
