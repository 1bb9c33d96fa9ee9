"""`llmctl doctor` as it is typed: hosts over real ssh, side by side, and a report that names nobody."""

from __future__ import annotations

import getpass
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmctl.doctor import report
from llmctl.doctor.rows import fail, good
from llmctl.fleet.facts import Facts
from tests.cli.fleet import Fleet, Result
from tests.doctor.test_look import LISTEN
from tests.testbed.sshd import needs_sshd

pytestmark = needs_sshd


def rows(result: Result, host: str | None, check: str) -> list[dict[str, Any]]:
    return [row for row in result.data["rows"] if (row["host"], row["check"]) == (host, check)]


def test_hosts_are_looked_at_side_by_side_and_one_that_is_dead_is_one_finding(fleet: Fleet, emptied: None) -> None:
    assert fleet("load", fleet.at("gpu1"), "alpha").code == 0
    taken = fleet.ports["gpu2"][0]
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(taken)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline()
        found = fleet("doctor")
        process.kill()
    assert (found.code, found.errors) == (1, [])
    assert {row["host"] for row in found.data["rows"]} == {None, "gpu1", "gpu2", "dead"}
    assert all(row["fix"] for row in found.data["rows"] if row["status"] != "pass")
    (dead,) = [row for row in found.data["rows"] if row["host"] == "dead"]
    assert (dead["check"], dead["status"]) == ("reach", "fail")
    assert [row["status"] for row in rows(found, "gpu1", "reach")] == ["pass"]
    assert rows(found, "gpu1", "slots")[0]["why"] == "1 as they should be"
    (port,) = rows(found, "gpu2", "ports")
    assert f"(pid {process.pid}) listens on {taken}" in port["why"]
    assert port["fix"] == f"llmctl adopt gpu2:{taken}"
    assert rows(found, None, "configuration")[0]["status"] == "pass"


def test_what_is_typed_as_text(fleet: Fleet) -> None:
    code, out, err = fleet.text("doctor", "gpu1", "dead")
    assert (code, err) == (1, "")
    head = out.splitlines()[0].split("  ")
    assert [word.strip() for word in head if word.strip()] == ["CHECK", "this machine", "gpu1", "dead"]
    assert "fail  dead, reach: " in out
    assert out.splitlines()[-1].endswith("failed")


def test_a_slot_that_was_killed_is_found_and_mended_by_what_is_told(fleet: Fleet, emptied: None) -> None:
    where = fleet.at("gpu1")
    fleet("load", where, "alpha")
    pid = fleet("status", where).data["slots"][0]["runner_pid"]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    (found,) = rows(fleet("doctor", "gpu1"), "gpu1", "slots")
    assert (found["status"], found["fix"]) == ("fail", f"llmctl restart {where}")
    assert fleet(*found["fix"].split()[1:]).code == 0
    (found,) = rows(fleet("doctor", "gpu1"), "gpu1", "slots")
    assert found["status"] == "pass"


def test_a_host_whose_key_changed(fleet: Fleet, home: Path) -> None:
    text = (home / "known_hosts").read_text().splitlines()
    keys = [line.split()[2] for line in text]
    swapped = [line.replace(keys[0], keys[1]) if keys[0] in line else line for line in text]
    (home / "known_hosts").write_text("\n".join(swapped) + "\n")
    found = fleet("doctor", "gpu1")
    (row,) = [row for row in found.data["rows"] if row["host"] == "gpu1"]
    assert (row["status"], row["fix"]) == ("fail", "llmctl hosts trust gpu1")


def test_a_hosts_toml_that_cannot_be_read_is_a_finding_and_the_rest_is_checked(fleet: Fleet) -> None:
    (fleet.config / "hosts.toml").write_text("[hosts.gpu1]\nadress = 1\n")
    found = fleet("doctor")
    assert (found.code, found.errors) == (1, [])
    (row,) = rows(found, None, "configuration")
    assert "hosts.toml:2" in row["why"] and "did you mean 'address'?" in row["why"]
    assert rows(found, None, "clock")


def test_a_state_folder_that_cannot_be_used_is_a_finding_and_hosts_are_looked_at(fleet: Fleet, home: Path) -> None:
    (home / "fleet").write_text("no folder")
    (home / "history.db").mkdir()
    (home / "keys.json").mkdir()
    found = fleet("doctor", "gpu1")
    assert (found.code, found.errors) == (1, [])
    assert [rows(found, None, check)[0]["status"] for check in ("history", "keys")] == ["fail", "fail"]
    assert rows(found, "gpu1", "reach")[0]["status"] == "pass"


def test_a_host_that_is_not_there_is_a_mistake_on_the_line(fleet: Fleet) -> None:
    found = fleet("doctor", "gpu9")
    assert (found.code, found.errors[0]["code"]) == (2, "unknown_name")


@pytest.mark.parametrize(
    "answer", ["nothing", '{"llmctl": "0.1.0", "exit_code": 0, "errors": [], "data": {"slots": 3}}']
)
def test_a_host_whose_llmctl_tells_nonsense_is_a_finding(fleet: Fleet, answer: str) -> None:
    program = fleet.hosts["gpu2"].home / ".llmctl/bin/llmctl"
    before = program.read_text()
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    try:
        found = fleet("doctor", "gpu2")
    finally:
        program.write_text(before)
    (row,) = [row for row in found.data["rows"] if row["host"] == "gpu2" and row["status"] == "fail"]
    assert (row["check"], row["fix"]) == ("llmctl", "llmctl deploy gpu2")


def test_a_report_names_nobody(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "annabel")
    (fleet.config / "health.toml").write_text("[rules]\nannabel = 1\n")
    code, out, _ = fleet.text("doctor", "--report")
    assert code == 1 and out.startswith("### llmctl doctor\n")
    assert "rules.[user]: unknown key" in out
    assert "| host-3 | reach | fail |" in out
    host = fleet.hosts["gpu1"]
    told = [
        "annabel",
        *fleet.hosts,
        host.address,
        str(host.home),
        str(fleet.config),
        "/tmp",
        "/root",
        socket.gethostname(),
    ]
    assert [word for word in told if word in out] == []
    as_json = fleet("doctor", "--report", "dead")
    assert [word for word in told if word in str(as_json.data)] == []


def test_a_report_masks_users_addresses_and_paths_and_keeps_one_line_a_row() -> None:
    secret = report.secrets([("gpu1.example", "address"), ("ann", "user"), (None, "x")], ["gpu1"])
    told = [
        fail("ssh", "others may read /home/ann/.ssh/id, of ann at 10.0.0.7 | `x`\nnext", "ssh ann@gpu1.example chmod"),
        good("python", "3.11"),
    ]
    text = report.markdown(report.safe(told, secret), {"llmctl": "1"})
    row = "ssh | fail | others may read [path], of [user] at [address]    x  next | ssh [user]@[address] chmod |"
    assert f"| this machine | {row}" in text
    assert text.endswith("1 checks passed.")


def test_a_machine_in_words_that_name_nobody() -> None:
    facts = Facts("linux", "Debian 12", "x86_64", "glibc 2.36", "A CPU", 2, 16 * 10**9, 0, "ann", 1, "/home/ann")
    assert report.machine(facts) == "Debian 12, x86_64, glibc 2.36, A CPU, 16 GB"
