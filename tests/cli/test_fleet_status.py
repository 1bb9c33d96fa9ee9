"""The status of a whole fleet: hosts that answer, that do not, and a table that is drawn again and again."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.fleet import Fleet
from tests.conftest import eventually
from tests.test_imports import HEAVIER, HEAVY, modules
from tests.testbed.sshd import needs_sshd

pytestmark = needs_sshd
LLMCTL = [sys.executable, "-m", "llmctl"]


def test_f09_a_host_that_is_not_reached_is_unknown_never_down(fleet: Fleet) -> None:
    slot = fleet.at("gpu1")
    assert fleet("load", slot, "alpha").code == 0
    done = fleet("status")
    assert done.code == 3
    assert [(host["host"], host["state"]) for host in done.data["hosts"]] == [
        ("gpu1", "ok"), ("gpu2", "ok"), ("dead", "unknown"),
    ]  # fmt: skip
    assert [(row["host"], row["model"], row["state"]) for row in done.data["slots"]] == [("gpu1", "alpha", "ready")]
    assert [(error["code"], error["host"]) for error in done.errors] == [("unreachable", "dead")]

    code, out, err = fleet.text("status")
    head, first, last = out.splitlines()
    assert head.split() == ["HOST", "PORT", "MODEL", "ENGINE", "STATE", "MEMORY", "TOK/S", "UP", "HANDLE", "WHY"]
    assert first.split()[:5] == ["gpu1", slot[5:], "alpha", "scripted", "ready"]
    assert last.split()[:5] == ["dead", "-", "-", "-", "unknown"] and "refuses connections" in last
    assert code == 3 and "hint: " in err

    assert fleet("status", "--host", "gpu*").code == 0
    done = fleet("status", "--host", "dead")
    assert (done.code, done.data["slots"], done.data["hosts"][0]["state"]) == (4, [], "unknown")
    fleet.hosts["gpu2"].stop()
    try:
        assert fleet("status", "--host", "gpu2", "--host", "de*").code == 4
    finally:
        fleet.hosts["gpu2"].start()
    eventually(lambda: fleet("status", "--host", "gpu2").code == 0)


def test_ports_of_the_fleet(fleet: Fleet) -> None:
    port = fleet.ports["gpu1"][0]
    fleet("load", f"gpu1:{port}", "alpha")
    assert [row["host"] for row in fleet("status", port, "--host", "gpu*").data["slots"]] == ["gpu1"]
    done = fleet("status", 8999, "--host", "gpu*")
    assert (done.code, done.errors[0]["code"]) == (2, "unknown_name")
    done = fleet("status", f"gpu1:{port}", "gpu2:8999")
    assert (done.code, len(done.data["slots"]), done.errors[0]["code"]) == (3, 1, "unknown_name")
    assert fleet("status", "gpu1:8999").errors[0]["hint"] == "llmctl load gpu1:8999 MODEL"


def test_a_host_without_llmctl_says_what_to_type(fleet: Fleet) -> None:
    folder = fleet.hosts["gpu2"].home / ".llmctl" / "bin"
    folder.rename(folder.with_name("away"))
    try:
        done = fleet("status", "--host", "gpu*")
        assert (done.code, done.data["hosts"][1]["state"], done.data["hosts"][1]["version"]) == (
            3,
            "not deployed",
            None,
        )
        assert done.errors[0]["hint"] == "llmctl deploy gpu2"
        assert "not deployed" in fleet.text("status")[1]
        assert fleet("load", fleet.at("gpu2"), "alpha").errors[0]["code"] == "not_deployed"
    finally:
        folder.with_name("away").rename(folder)


def test_a_host_is_called_as_the_operator_calls_it(fleet: Fleet) -> None:
    entry = fleet.hosts["gpu1"].entry().replace("[hosts.gpu1]", "[hosts.other]")
    (fleet.config / "hosts.toml").write_text(entry)
    port = fleet.ports["gpu1"][0]
    done = fleet("load", f"other:{port}", "alpha")
    assert done.data.get("host", "other") == "other" and "gpu1" not in str(done.errors)
    assert [row["host"] for row in fleet("status").data["slots"] if row["port"] == port] == ["other"]
    assert fleet("unload", f"other:{port}").data["host"] == "other"


def test_the_table_is_shown_again_and_again_until_ctrl_c(fleet: Fleet) -> None:
    fleet("load", fleet.at("gpu1"), "alpha")
    before = logins(fleet)
    words = [*LLMCTL, "status", "-w", "--every", "0.2s", "--host", "gpu*"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        seen = ""
        while seen.count("alpha") < 3:
            seen += watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
    assert logins(fleet) == before + 1
    assert fleet("status", "--watch").errors[0]["code"] == "usage"
    assert fleet.text("status", "-w", "--every", "soon")[0] == 2


def logins(fleet: Fleet) -> int:
    """How often somebody logged in at gpu1."""
    return fleet.hosts["gpu1"].log.count("Accepted publickey")


def test_a_terminal_gets_one_table_that_is_redrawn(fleet: Fleet) -> None:
    fleet("load", fleet.at("gpu1"), "alpha")
    ours, its = pty.openpty()
    words = [*LLMCTL, "status", "-w", "--every", "0.2s", "--host", "gpu*"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140"}
    with subprocess.Popen(
        words, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True
    ) as watching:
        os.close(its)
        seen = b""
        while seen.count(b"alpha") < 3:
            seen += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        eventually(lambda: watching.poll() is not None)
        assert watching.returncode == 130
    os.close(ours)
    assert b"\x1b[1A" in seen and b"Traceback" not in seen


def test_the_status_that_hosts_are_asked_for_starts_light(home: Path) -> None:
    found = modules("from llmctl.__main__ import main; assert main(['--json', '--as-host=h1', 'status']) == 0")
    assert "llmctl.slots.status" in found
    ours = {
        f"llmctl.{name}" for name in ("render", "config", "catalog", "fleet", "domain", "slots.state", "slots.verbs")
    }
    assert found.isdisjoint({*HEAVY, *HEAVIER, *ours, "asyncio", "subprocess", "random", "difflib", "traceback"})


def test_status_as_json_of_a_fleet_starts_without_typer(fleet: Fleet) -> None:
    code = "from llmctl.__main__ import main; assert main(['--json', 'status', '--host', 'gpu*', '--host=gpu1']) == 0"
    assert modules(code).isdisjoint({"typer", "click", "rich", "httpx", "huggingface_hub", "llmctl.render"})
    assert json.loads(fleet.text("--json", "status", "--host")[1])["exit_code"] == 2
