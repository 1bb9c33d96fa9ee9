"""What is wrong with a host: each finding is there when it should be, only then, and ends with what to type."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from llmctl import __version__
from llmctl.config import Host
from llmctl.doctor import fixes, hosts
from llmctl.doctor.inside import Foreign, Inside, Mac, SlotInside
from llmctl.doctor.rows import FAIL, PASS, WARN, Row
from llmctl.errors import KeyChanged, LlmctlError, NotDeployed, Unreachable, UsageError
from llmctl.fleet.facts import Facts
from llmctl.health.seen import Sensor
from tests.fleet.recorded import facts_of

NOW = 1_764_000_000.0
GB = 10**9
IT = Host("it", "ssh", address="it.example", user="me", ssh_port=2222)
RELEASE = f"{__version__}-1a2b3c4d"
H100 = replace(facts_of("ubuntu-h100"), release=RELEASE)
MAC = replace(facts_of("mac-studio-m3-ultra"), release=RELEASE)
DEBIAN = replace(H100, accelerators=(), notes=(), distro=("debian",))
SLOT = SlotInside(8101, "tiny", True, "ready", service="systemd", enabled=True, unit="active", engine="torch")
WELL = Inside(
    "/home/me/.llmctl", RELEASE, NOW - 3600, service="systemd", slots=(SLOT,), disk_free=800 * GB, disk_total=1900 * GB,
    memory_free=100 * GB, memory_total=200 * GB, backend="cuda", compiler=True, synchronized=True,
)  # fmt: skip
CPU = replace(WELL, backend="cpu", native=True)
SSH = "ssh -p 2222 me@it.example "


def found(host: Host, facts: Facts, inside: Inside | LlmctlError) -> list[Row]:
    """What is not as it should be. Nothing is told twice, and everything ends with a fix."""
    rows = hosts.rows(host, facts, inside, NOW)
    assert [hosts.CHECKS.index(row.check) for row in rows] == sorted(hosts.CHECKS.index(row.check) for row in rows)
    assert len({(row.check, row.why) for row in rows}) == len(rows)
    assert all(bool(row.fix) == (row.status != PASS) for row in rows)
    return [row for row in rows if row.status != PASS]


@pytest.mark.parametrize(
    ("facts", "inside"),
    [(H100, WELL), (DEBIAN, CPU), (MAC, replace(WELL, backend="metal", mac=Mac(0, 0, False), service="launchd"))],
)
def test_a_host_that_is_well_passes_every_check(facts: Facts, inside: Inside) -> None:
    assert found(IT, facts, inside) == []
    checks = {row.check: row.why for row in hosts.rows(IT, facts, inside, NOW)}
    assert {"reach", "python", "llmctl", "release", "slots", "ports", "disk", "memory", "keys", "state"} <= set(checks)
    assert checks["release"] == f"{RELEASE}, 1h00m ago"
    assert checks["slots"] == "1 as they should be"
    assert ("mac" in checks) == (facts is MAC)


def slot(**what: Any) -> dict[str, Any]:
    return {"slots": (replace(SLOT, **what),)}


FINDINGS: list[tuple[dict[str, Any], str, str, str, str]] = [
    ({"drift": ("bin/llmctl",)}, "release", FAIL, "not as it was deployed: bin/llmctl", "llmctl deploy it"),
    ({"drift": tuple("abcdef")}, "release", FAIL, "a, b, c, d and 2 more", "llmctl deploy it"),
    (
        slot(state="down", why="no slot server runs; llmctl restart 8101"),
        "slots",
        FAIL,
        "8101 (tiny) is down: no slot server runs",
        "llmctl restart it:8101",
    ),
    (
        slot(state="crash-loop", why="it was killed by SIGKILL (often: out of memory)"),
        "slots",
        FAIL,
        "is crash-loop: it was killed",
        "llmctl models fit tiny --host it",
    ),
    (slot(state="backoff"), "slots", FAIL, "8101 (tiny) is backoff", "llmctl restart it:8101"),
    (slot(enabled=False), "slots", WARN, "does not start at boot", "llmctl restart it:8101"),
    (slot(unit="failed"), "slots", WARN, "its unit is failed", "llmctl restart it:8101"),
    (slot(due=("reexec",)), "slots", WARN, "still runs an older release", "llmctl deploy it"),
    (slot(due=("move",)), "slots", WARN, "under another service manager", "llmctl deploy it"),
    (slot(residency={"cpu": 5}), "gpu", FAIL, "computes on the CPU, and the host has cuda", "llmctl deploy it"),
    ({"cpu_builds": ("torch",)}, "gpu", FAIL, "the build for CPUs alone in: torch", "llmctl deploy it"),
    (
        {"foreign": (Foreign(8101, 77, "ollama", True),)},
        "ports",
        FAIL,
        "ollama (pid 77) holds 8101",
        f"{SSH}kill 77 && llmctl restart it:8101",
    ),
    ({"foreign": (Foreign(8101),)}, "ports", FAIL, "a program holds 8101", f"{SSH}sudo fuser -k 8101/tcp && llmctl"),
    (
        {"foreign": (Foreign(8105, 77, "ollama", True),)},
        "ports",
        WARN,
        "ollama (pid 77) listens on 8105",
        "llmctl adopt it:8105",
    ),
    ({"foreign": (Foreign(8105),)}, "ports", WARN, "a program listens on 8105", "ports = ["),
    ({"disk_free": 2 * GB}, "disk", FAIL, "2.0 GB free where its models lie", "llmctl models gc --host it"),
    ({"memory_free": 5 * GB, **slot(memory=7)}, "memory", WARN, "5.0 GB of 200.0 GB free", "llmctl unload it:8101"),
    ({"memory_free": 5 * GB}, "memory", WARN, "5.0 GB of 200.0 GB free", f"{SSH}ps aux"),
    ({"sensors": (Sensor("GPU 1", throttled="too hot"),)}, "heat", WARN, "GPU 1: too hot", "nvidia-smi -pl"),
    ({"sensors": (Sensor("coretemp", 89.0, 92.0),)}, "heat", WARN, "coretemp has 89 °C of 92", "cpupower"),
    (
        {"sensors": (Sensor("GPU 1", dead="it does not answer: Unknown Error"),)},
        "heat",
        FAIL,
        "GPU 1: it does not",
        f"{SSH}sudo reboot",
    ),
    ({"keys": "keys.json does not hold two keys"}, "keys", FAIL, "two keys", "llmctl keys rotate --host it"),
    (
        {"loose": ((".", 0o700), ("hf_token", 0o600))},
        "state",
        WARN,
        "the folder, hf_token in /home/me/.llmctl",
        f"{SSH}'chmod 700",
    ),
    ({"synchronized": False}, "clock", WARN, "nothing keeps it right", f"{SSH}sudo timedatectl set-ntp true"),
]


@pytest.mark.parametrize(("inside", "check", "status", "why", "fix"), FINDINGS)
def test_one_thing_wrong_is_one_finding(inside: dict[str, Any], check: str, status: str, why: str, fix: str) -> None:
    (row,) = found(IT, H100, replace(WELL, **inside))
    assert (row.check, row.status) == (check, status)
    assert why in row.why
    assert fix in row.fix


@pytest.mark.parametrize(
    "inside",
    [
        slot(wanted=False, state="down"),
        slot(state="disabled", enabled=False),
        slot(state="sleeping"),
        slot(service="none", enabled=False, unit=""),
        slot(residency={"cpu": 1, "cuda:0": 5}),
        slot(residency={}),
        {"sensors": (Sensor("coretemp", 60.0, 92.0), Sensor("Tctl", 99.0), Sensor("package-0", watts=200.0))},
        {"synchronized": None},
        {"native_due": True, "backend": "cuda"},
        {"memory_free": 0, "memory_total": 0},
    ],
)
def test_what_is_meant_is_no_finding(inside: dict[str, Any]) -> None:
    assert found(IT, H100, replace(WELL, **inside)) == []


@pytest.mark.parametrize(
    ("host", "facts", "inside", "why", "fix"),
    [
        (
            IT,
            DEBIAN,
            {"native": False, "native_due": True, "native_why": "it was not built yet"},
            "it was not built yet",
            "llmctl native build --host it",
        ),
        (
            IT,
            DEBIAN,
            {"native": False, "native_why": "cmake failed"},
            "cmake failed",
            "llmctl native build --force --host it",
        ),
        (
            IT,
            DEBIAN,
            {"native": False, "compiler": False},
            "no C++ compiler",
            f"{SSH}sudo apt install build-essential && llmctl native build",
        ),
        (
            IT,
            replace(DEBIAN, distro=("fedora",)),
            {"native": False, "compiler": False},
            "no C++",
            "dnf install gcc-c++",
        ),
        (replace(IT, native=False), DEBIAN, {"native": False, "native_due": True}, None, None),
        (IT, DEBIAN, {"native": False, "native_due": True, "release": None}, None, None),
    ],
)
def test_llama_cpp_for_the_cpu(
    host: Host, facts: Facts, inside: dict[str, Any], why: str | None, fix: str | None
) -> None:
    rows = found(host, facts, replace(CPU, **inside))
    assert [(row.check, row.status) for row in rows] == ([("native", WARN)] if why else [])
    for row in rows:
        assert str(why) in row.why and str(fix) in row.fix


@pytest.mark.parametrize(
    ("mac", "host", "why", "fix"),
    [
        (Mac(0, 10, False), IT, "to sleep after 10 minutes", f"{SSH}sudo pmset -a sleep 0"),
        (Mac(0, 0, True), IT, "FileVault is on", "fdesetup"),
        (
            Mac(0, 0, False),
            replace(IT, memory_budget=500 * 2**30),
            "its GPU may use 412.3 GB",
            "iogpu.wired_limit_mb=512000",
        ),
        (Mac(512000, 0, False), replace(IT, memory_budget=500 * 2**30), None, None),
        (Mac(None, None, None), IT, None, None),
    ],
)
def test_a_mac_never_run(mac: Mac, host: Host, why: str | None, fix: str | None) -> None:
    rows = found(host, MAC, replace(WELL, backend="metal", mac=mac))
    assert [row.check for row in rows] == (["mac"] if why else [])
    for row in rows:
        assert str(why) in row.why and str(fix) in row.fix


@pytest.mark.parametrize(
    ("host", "facts", "check", "why", "fix"),
    [
        ({}, {"disk_free": 2 * GB}, "disk", "2.0 GB free", "--prune"),
        ({}, {"linger": False}, "service", "no linger", "loginctl enable-linger me"),
        ({}, {"skew": 90.0}, "clock", "90 s ahead", "timedatectl"),
        ({}, {"pythons": ()}, "python", "no Python 3.10", "uv python install"),
        ({}, {"services": ("none",)}, "service", "after a reboot", 'service = "none" in [hosts.it]'),
        ({"service": "launchd"}, {}, "service", "linux has no launchd", 'service = "none"'),
        (
            {},
            {"notes": ("systemd runs, and has no manager for this user (…)",)},
            "system",
            "manager for this user",
            "dbus-user-session",
        ),
        (
            {},
            {"notes": ("nobody is logged in at the Mac: a launchd agent starts at the next login",)},
            "system",
            "logged in",
            "launchd-system",
        ),
        ({}, {"notes": ("something new",)}, "system", "something new", "llmctl hosts show it"),
    ],
)
def test_what_its_facts_tell_has_a_command_too(
    host: dict[str, Any], facts: dict[str, Any], check: str, why: str, fix: str
) -> None:
    (row,) = found(replace(IT, **host), replace(H100, **facts), WELL)
    assert (row.check, why in row.why, fix in row.fix) == (check, True, True), row


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("ubuntu-no-driver", "sudo ubuntu-drivers install"),
        ("ubuntu-driver-not-loaded", "modprobe nvidia"),
        ("ubuntu-amd-gpu", 'backend = "cpu" in [hosts.it]'),
    ],
)
def test_a_gpu_that_is_not_used_unless_it_is_not_to_be(name: str, fix: str) -> None:
    facts = replace(facts_of(name), release=RELEASE, linger=True, skew=0.0)
    (row,) = [row for row in found(IT, facts, CPU) if row.check == "gpu"]
    assert fix in row.fix
    assert [row for row in found(replace(IT, backend="cpu"), facts, CPU) if row.check == "gpu"] == []


def test_the_graphics_of_a_processor_beside_a_gpu_are_no_finding() -> None:
    facts = replace(facts_of("ubuntu-4090"), release=RELEASE, linger=True, skew=0.0)
    assert facts.notes
    assert found(IT, facts, WELL) == []


def test_a_mig_gpu_without_an_instance() -> None:
    told = "NVIDIA H100 is in MIG mode and has no instance: nvidia-smi mig -cgi … -C"
    assert fixes.of(told, IT, H100) == f"{SSH}sudo nvidia-smi mig -cgi 0 -C"


def test_a_driver_that_is_too_old_for_torch() -> None:
    old = replace(H100, accelerators=tuple(replace(gpu, cuda="11.4") for gpu in H100.accelerators))
    (row,) = found(IT, old, WELL)
    assert (row.check, row.status) == ("gpu", WARN)
    assert "CUDA 11.4 at most" in row.why and "update the driver" in row.fix


# ── hosts that tell less ────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_told_twice_of_a_slot_that_is_down_or_of_one_disk() -> None:
    down = replace(SLOT, state="down", due=("start",))
    (row,) = found(IT, H100, replace(WELL, slots=(down,)))
    assert (row.check, row.status) == ("slots", FAIL)
    (row,) = found(IT, replace(H100, disk_free=2 * GB), replace(WELL, disk_free=GB))
    assert row.check == "disk"


def test_a_host_without_llmctl_is_to_be_deployed_to() -> None:
    (row,) = found(IT, replace(H100, release=""), NotDeployed("it has no llmctl", hint="llmctl deploy it"))
    assert (row.check, row.status, row.fix) == ("llmctl", WARN, "llmctl deploy it")


def test_an_older_llmctl_that_knows_no_doctor_is_one_finding() -> None:
    old = replace(H100, release="0.0.1-1a2b3c4d")
    (row,) = found(IT, old, UsageError("No such command 'doctor'."))
    assert (row.check, row.status, row.fix) == ("llmctl", FAIL, "llmctl deploy it")


def test_one_of_our_version_that_fails_is_a_finding() -> None:
    (row,) = found(IT, H100, LlmctlError("it ended with 1 and no answer"))
    assert (row.check, row.status, row.fix) == ("llmctl", FAIL, "llmctl deploy it")


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (Unreachable("nothing answers"), "llmctl hosts check it"),
        (KeyChanged("its key changed", hint="llmctl hosts trust it"), "llmctl hosts trust it"),
    ],
)
def test_a_host_that_cannot_be_reached_is_one_finding(error: LlmctlError, fix: str) -> None:
    (row,) = hosts.unreachable(IT, error)
    assert (row.check, row.status, row.why, row.fix) == ("reach", FAIL, error.message, fix)


def test_what_a_host_tells_crosses_machines_whole() -> None:
    told = replace(
        WELL, sensors=(Sensor("GPU 0", 50.0),), foreign=(Foreign(1, 2, "x", True),), loose=(("a", 0o600),),
        mac=Mac(1, 2, True), drift=("a",),
    )  # fmt: skip
    assert Inside.from_dict(json.loads(json.dumps(told.to_dict()))) == told
    assert Inside.from_dict({**json.loads(json.dumps(told.to_dict())), "newer": 1}) == told
