"""A host's look at itself, with real slots, processes and releases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmctl.config import Host
from llmctl.doctor import look
from llmctl.doctor.inside import Foreign, Inside, Mac
from llmctl.environments import installed
from llmctl.host import releases
from llmctl.native import builds
from llmctl.slots.state import SlotFolder
from tests.conftest import RunningSlot, free_port
from tests.host.conftest import Asker, made_environment, send_wheel, wanted

LISTEN = """\
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def listener() -> Iterator[tuple[int, int]]:
    """(port, pid) of a process that is none of ours."""
    port = free_port()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", LISTEN, str(port)], stdin=pipe, stdout=pipe) as process:
        assert process.stdout and process.stdout.readline()
        yield port, process.pid
        process.kill()


def looked(home: Path, *ports: int, **entry: Any) -> Inside:
    host = Host("local", ports=(min(ports, default=1), max(ports, default=1)))
    return look.inside(home, replace(host, **entry))


def test_a_machine_with_nothing_of_ours(home: Path) -> None:
    found = looked(home, free_port())
    assert (found.release, found.deployed, found.drift, found.slots, found.foreign) == (None, None, (), (), ())
    assert 0 < found.disk_free <= found.disk_total
    assert 0 < found.memory_free <= found.memory_total
    assert (found.service, found.keys, found.loose, found.mac) == ("none", "", (), None)


def test_a_slot_is_ours_and_another_process_is_not(
    home: Path, scripted_slot: RunningSlot, listener: tuple[int, int]
) -> None:
    port, pid = listener
    found = looked(home, scripted_slot.port, port)
    (slot,) = found.slots
    assert (slot.port, slot.model, slot.wanted, slot.state, slot.service) == (
        scripted_slot.port, "alpha", True, "ready", "none",
    )  # fmt: skip
    assert Foreign(port, pid, Path(sys.executable).name, True) in found.foreign
    assert scripted_slot.port not in {one.port for one in found.foreign}


def test_a_port_of_a_slot_without_its_server_that_another_process_took(home: Path, scripted_slot: RunningSlot) -> None:
    scripted_slot.kill()
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(scripted_slot.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline()
        found = looked(home, scripted_slot.port)
        process.kill()
    (slot,) = found.slots
    assert (slot.state, slot.unit) == ("down", look.DOWN)
    assert [one.pid for one in found.foreign] == [process.pid]


def test_state_that_cannot_be_read_is_told_and_the_look_goes_on(home: Path, scripted_slot: RunningSlot) -> None:
    scripted_slot.kill()
    folder = SlotFolder(home, scripted_slot.port)
    for path in folder.path.glob("desired.*"):
        path.write_text("{")
    (home / "keys.json").write_text("{}")
    found = looked(home, scripted_slot.port)
    assert "does not hold two keys" in found.keys
    assert found.slots[0].state == "down" and "cannot be read" in found.slots[0].why


def deploy(home: Path) -> None:
    ask = Asker(home)
    ask("begin")
    made_environment(home, "base-1")
    ask.release(send_wheel(home, "1.0-a"))
    ask.activate(wanted("1.0-a"))
    ask.finish()


def test_a_deploy_and_what_was_changed_since(home: Path) -> None:
    deploy(home)
    before = looked(home)
    assert (before.release, before.drift, before.service) == ("1.0-a", (), "none")
    assert before.deployed
    (home / "config/hosts.toml").write_text("# by hand\n")
    (home / "hf_token").write_text("hf_x")
    after = looked(home)
    assert after.drift == ("config/hosts.toml",)
    assert ("hf_token", 0o600) in after.loose


def test_a_slot_that_runs_other_code_than_the_release(home: Path, scripted_slot: RunningSlot) -> None:
    deploy(home)
    assert "reexec" in looked(home, scripted_slot.port).slots[0].due
    (releases.folder(home, "1.0-a") / "environments.json").write_text("{")
    found = looked(home, scripted_slot.port)  # a release that is torn does not hide the rest
    assert "was never in use here" in found.drift[0]
    assert found.slots[0].state == "ready"


@pytest.mark.parametrize(("version", "told"), [("2.9.1+cpu", ("torch",)), ("2.9.1", ()), ("2.9.1+cu130", ())])
def test_builds_for_cpus_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, told: tuple[str, ...]
) -> None:
    folder = tmp_path / "envs/torch-1/lib/python3.11/site-packages" / f"torch-{version}.dist-info"
    folder.mkdir(parents=True)
    python = str(tmp_path / "envs/torch-1/bin/python")
    monkeypatch.setattr(installed, "environments", lambda release: {"torch": python, "base": python})
    assert looked(home).cpu_builds == told


def test_the_native_build_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "due", lambda home: True)
    said = {"library": None, "compiler": "c++ 1", "serves": "the wheel: it was not built yet"}
    monkeypatch.setattr(builds, "described", lambda home: said)
    found = looked(home)
    assert (found.native, found.native_due, found.native_why) == (False, True, "it was not built yet")


PMSET = """\
System-wide power settings:
Currently in use:
 standby              0
 Sleep On Power Button 1
 autorestart          1
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                1 (sleep prevented by sharingd, powerd)
 ttyskeepawake        1
 displaysleep         10
"""
AWAKE = PMSET.replace("sleep                1", "sleep                0")


@pytest.mark.parametrize(
    ("said", "mac"),
    [
        (("0\n", PMSET, "FileVault is On.\n"), Mac(0, 1, True)),
        (("24576\n", AWAKE, "FileVault is Off.\n"), Mac(24576, 0, False)),
        (("", "", ""), Mac()),
        (("sysctl: unknown oid 'iogpu.wired_limit_mb'\n", "Usage: pmset", "Error: unable"), Mac()),
    ],
)  # fmt: skip
def test_a_mac_never_run(said: tuple[str, str, str], mac: Mac) -> None:
    assert look.mac(*said) == mac
