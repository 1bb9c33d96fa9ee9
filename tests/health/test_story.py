"""What this is all for: cron on a real host finds a wedged engine and mends it; people are told once, and it shows."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import eventually
from tests.testbed.machines import machines
from tests.units.conftest import HOME, Host, install

pytestmark = [pytest.mark.root, pytest.mark.slow]

SETTINGS = """\
timeout = "5s"
[[notify]]
name = "page"
command = ["/home/op/page"]
"""
PAGE = "#!/bin/sh\ncat >>/home/op/told; echo >>/home/op/told\n"
SEEN = "/home/op/seen"
LOOK = f"(sleep 12; printf q) | TERM=xterm-256color COLUMNS=140 LINES=40 script -qec '{HOME}/bin/llmctl top' {SEEN}"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with machines(1) as bed:
        install(bed.machines[0], "systemd", extras=("server", "web", "top"))
        host = Host(bed.machines[0])
        host.install_units("systemd")
        host.model("alpha")
        host.machine.path(f"{HOME}/config/health.toml").write_text(SETTINGS)
        page = host.machine.path("/home/op/page")
        page.write_text(PAGE)
        page.chmod(0o755)
        host.machine.sh("chown -R op: /home/op")
        yield host


def test_cron_finds_a_wedged_engine_heals_it_and_all_of_it_shows(host: Host) -> None:
    machine = host.machine
    host.llmctl("load 8101 alpha")
    assert host.llmctl("health", code=None)["slots"][0]["verdict"] == "ok"
    installed = host.llmctl("health install --every 1m --heal --notify page")
    assert installed["scheduled"][0]["active"], installed
    wedged = host.slot(8101)["pid"]
    machine.sh(f"kill -STOP {wedged}")

    told = machine.path("/home/op/told")
    eventually(told.exists, within=200, every=1)
    machine.sh("crontab -r", "op")
    eventually(lambda: host.slot(8101)["pid"] not in (None, wedged), within=60)
    assert host.llmctl("health", code=None)["slots"][0]["verdict"] == "ok"
    (message,) = [json.loads(line) for line in told.read_text().splitlines() if line]
    assert message["slots"][0]["port"] == 8101 and "no answer within 5 s" in message["text"]
    assert "restarted" in message["text"]

    history = host.llmctl("history")
    (incident,) = [incident for incident in history["incidents"] if incident["port"]]
    assert (incident["port"], incident["verdict"], incident["heals"]) == (8101, "down", 1) and incident["closed"]
    kinds = [event["kind"] for event in history["events"]]
    assert [kind for kind in kinds if kind in ("incident", "heal", "recovered", "notify")].count("notify") == 1

    machine.sh(LOOK, "op", timeout=60)
    screen = machine.path(SEEN).read_text(errors="replace")
    assert "8101" in screen and "alpha" in screen and "restart" in screen

    machine.sh(f"setsid {HOME}/bin/llmctl web >/home/op/web.log 2>&1 </dev/null &", "op")
    get = "curl -s --max-time 5 http://127.0.0.1:8091"
    eventually(lambda: "alpha" in machine.ran(f"{get}/", "op").stdout, within=60, every=0.5)
    shown = machine.sh(f"{get}/history", "op")
    assert "8101" in shown and "no answer within 5 s" in shown
