"""`llmctl web` over real slots, here and on hosts over real ssh."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llmctl.cli import watching
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.cli.web_acts import WebActs
from llmctl.web.app import Door, Web
from tests.cli.fleet import Fleet, emptied, fleet, machines
from tests.conftest import eventually, free_port
from tests.web.operator import Operator, operator
from tests.web.serving import Served, events, hang_up

__all__ = ["emptied", "fleet", "machines", "operator"]

CANARY = "a canary that sings 90125"


class Person:
    """Somebody at a browser without scripts."""

    def __init__(self, url: str, slot: str) -> None:
        self.slot = f"/slots/{slot}"
        headers = {"Accept": "text/html", "Origin": url}
        self.client = httpx.Client(base_url=url, headers=headers, follow_redirects=True, timeout=60)

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def text(self, path: str | None = None) -> str:
        return self.client.get(path or self.slot).text

    def token(self) -> str:
        found = re.search(r'name="token" value="([0-9a-f]{64})"', self.text("/sign-in"))
        assert found
        return found[1]

    def post(self, path: str, **fields: str) -> httpx.Response:
        return self.client.post(path, data={"token": self.token(), **fields})

    def change(self, verb: str, model: str = "") -> None:
        assert self.post(f"{self.slot}/{verb}", model=model).status_code == 200

    def chat(self, text: str) -> str:
        body = {"messages": [{"role": "user", "content": text}]}
        answer = self.client.post(f"{self.slot}/chat", json=body, headers={"X-Token": self.token(), "Accept": "*/*"})
        return "".join(
            json.loads(data) for data in re.findall(r"event: (?:text|failed)\ndata: (.*)\n", answer.text) if data
        )

    def waits_for(self, text: str) -> None:
        eventually(lambda: text in self.text(), every=0.1)


def test_a_slot_is_seen_asked_and_swapped_and_nothing_leaks(operator: Operator) -> None:
    with Person(operator.url, f"here/{operator.slot.port}") as person:
        eventually(lambda: "alpha" in person.text("/"))
        assert "1.20 s" in person.text("/")
        assert person.chat("Who?") == "I am alpha."
        person.chat(CANARY)
        person.post("/sign-in", key=operator.key("admin"))
        person.change("swap", "beta")
        person.waits_for("beta is ready, after")
        assert person.chat("Who?") == "I am beta."
        person.change("swap", "broken")
        person.waits_for("failed:")
        assert operator.slot.status().model == "beta"
        person.change("swap", "bto")
        person.waits_for("no model &#39;bto&#39;")
        person.change("unload")
        person.waits_for("no model is loaded, after")
        eventually(lambda: 'action="' + person.slot + '/load"' in person.text())
        person.change("load", "alpha")
        person.waits_for("alpha is ready, after")
    arguments = Path(f"/proc/{operator.process.pid}/cmdline").read_bytes().decode()
    assert operator.end() in (0, 130)
    said = operator.output.read_text()
    assert "Traceback" not in said
    kept = {path: path.read_bytes().decode(errors="replace") for path in operator.home.rglob("*") if path.is_file()}
    for where, text in {**kept, "arguments": arguments, "output": said}.items():
        assert "canary that sings" not in text, where
        if Path(where).name != "keys.json":
            assert operator.key("admin") not in text and operator.key("client") not in text, where


@pytest.fixture
def pages(fleet: Fleet, home: Path, emptied: None) -> Iterator[Served]:
    """Pages of two hosts over ssh, and one that is down."""
    session = Session(config_dir=str(fleet.config))
    hosts = list(session.config.hosts.values())
    port = free_port()
    with Reach(session) as reach, watching.watch(reach, hosts, 0.2) as watch:
        web = Web(home, Door(port=port), watch, WebActs(reach))
        with Served(web, port) as served:
            yield served


def test_hosts_over_ssh_are_seen_followed_and_asked(fleet: Fleet, pages: Served, home: Path) -> None:
    from llmctl import keys

    assert fleet("load", fleet.at("gpu1"), "alpha").code == 0
    slot = fleet.at("gpu1").replace(":", "/")
    with Person(f"http://127.0.0.1:{pages.port}", slot) as person:
        eventually(lambda: "alpha" in person.text("/"), every=0.1)
        eventually(lambda: "dead: " in person.text("/") or "unknown" in person.text("/"))
        assert person.chat("Who?") == ""  # nobody signed in: another host's slot is not asked for him
        person.post("/sign-in", key=keys.show(home)["client"])
        assert person.chat("Who?") == "I am alpha."
        following = pages.open(f"/slots/{slot}/live")
        log = (line for kind, data in events(following) if kind == "log" for line in data)
        assert "serves port" in next(log)
        person.post("/sign-in", key=keys.show(home)["admin"])
        person.change("swap", "beta")
        person.waits_for("beta is ready, after")
        assert any("swap by" in line for line in log)
        hang_up(following)
        assert person.chat("Who?") == "I am beta."
        assert "swap by" in person.text(f"{person.slot}/log")
