"""What a deploy takes on recorded machines, why, and why not the others; what it refuses, and what to type then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmctl.config import Host
from llmctl.errors import LlmctlError, NoPython, Refused, Unsupported, UsageError
from llmctl.fleet.facts import Facts, Python, choices
from tests.fleet.recorded import NAMES, facts_of

HOST = Host("it", "ssh", address="it")

# machine: backend, engines, service
TAKEN = {
    "alpine": ("cpu", None, "none"),
    "debian-12": ("cpu", ["llamacpp", "torch"], "none"),
    "mac-studio-m3-ultra": ("metal", ["mlx", "llamacpp", "torch"], "launchd"),
    "macbook-intel": ("cpu", ["llamacpp"], "launchd"),
    "raspberry": ("cpu", ["llamacpp", "torch"], "systemd"),
    "ubuntu-4090": ("cuda", ["torch", "llamacpp"], "systemd"),
    "ubuntu-amd-gpu": ("cpu", ["llamacpp", "torch"], "none"),
    "ubuntu-driver-not-loaded": ("cpu", ["llamacpp", "torch"], "systemd"),
    "ubuntu-grace": ("cuda", ["torch", "llamacpp"], "systemd"),
    "ubuntu-h100": ("cuda", ["torch", "llamacpp"], "systemd"),
    "ubuntu-mig": ("cuda", ["torch", "llamacpp"], "systemd"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_on_a_recorded_machine(name: str) -> None:
    backend, engines, service = TAKEN[name]
    facts = facts_of(name)
    assert choices.backend(HOST, facts).value == backend
    assert choices.service(HOST, facts).value == service
    if engines is None:
        with pytest.raises(Unsupported, match="no wheel for musl"):
            choices.engines(HOST, backend, facts)
    else:
        assert [engine.value for engine in choices.engines(HOST, backend, facts)] == engines


@pytest.mark.parametrize("name", TAKEN)
def test_every_choice_has_a_reason_for_it_and_against_each_other(name: str) -> None:
    facts = facts_of(name)
    backend = choices.backend(HOST, facts)
    service = choices.service(HOST, facts)
    assert backend.why and service.why
    assert {backend.value, *backend.why_not} >= {"metal", "cuda"}
    if TAKEN[name][1]:
        engines = choices.engines(HOST, backend.value, facts)
        named = {engine.value for engine in engines} | set(engines[0].why_not)
        assert named == {"llamacpp", "torch", "mlx", "openvino"}
        assert all(engine.why for engine in engines)
    assert all([*backend.why_not.values(), *service.why_not.values()])


def test_reasons_name_what_was_seen() -> None:
    assert choices.backend(HOST, facts_of("ubuntu-h100")).why == "8 × NVIDIA H100 80GB HBM3"
    assert choices.backend(HOST, facts_of("mac-studio-m3-ultra")).why == "Apple M3 Ultra has Metal"
    assert "couldn't communicate" in choices.backend(HOST, facts_of("ubuntu-driver-not-loaded")).why_not["cuda"]
    assert choices.backend(HOST, facts_of("ubuntu-amd-gpu")).why_not["cuda"].startswith("an AMD GPU is there")
    engine = choices.engines(HOST, "cpu", facts_of("macbook-intel"))[0]
    assert engine.why_not["torch"] == "has no wheel for darwin on x86_64"
    assert "no manager for this user" in choices.service(HOST, facts_of("ubuntu-amd-gpu")).why_not["systemd"]


# ── backend ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_backend_that_is_asked_for_is_taken() -> None:
    assert choices.backend(replace(HOST, backend="cpu"), facts_of("ubuntu-h100")).value == "cpu"


@pytest.mark.parametrize(
    ("asked", "name", "why", "instead"),
    [
        ("cuda", "debian-12", "it has no NVIDIA GPU", "cpu"),
        ("cuda", "ubuntu-no-driver", "without its driver", "cpu"),
        ("cuda", "mac-studio-m3-ultra", "macOS has no CUDA", "metal"),
        ("metal", "ubuntu-h100", "no Mac with Apple silicon", "cuda"),
        ("metal", "macbook-intel", "no Mac with Apple silicon", "cpu"),
    ],
)
def test_a_backend_that_is_not_there_is_refused(asked: str, name: str, why: str, instead: str) -> None:
    with pytest.raises(Unsupported, match=why) as raised:
        choices.backend(replace(HOST, backend=asked), facts_of(name))
    assert f"that would take {instead}" in str(raised.value.hint)


# ── engines ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_engines_of_hosts_toml_are_taken_in_its_order_and_none_is_none() -> None:
    facts = facts_of("ubuntu-4090")
    asked = replace(HOST, engines=("llamacpp", "scripted"))
    assert [engine.value for engine in choices.engines(asked, "cuda", facts)] == ["llamacpp", "scripted"]
    assert choices.engines(replace(HOST, engines=()), "cuda", facts) == ()
    assert choices.engines(asked, "cuda", facts)[0].why_not["torch"] == "hosts.toml does not list it"


@pytest.mark.parametrize(
    ("engines", "backend", "changes", "why"),
    [
        (("mlx",), "cuda", {}, "does not run on cuda"),
        (("torch",), "cpu", {"libc": "glibc 2.17"}, "needs glibc 2.28, there is 2.17"),
        (("torch",), "cpu", {"libc": ""}, "needs glibc 2.28, there is none"),
        (("llamacpp",), "cpu", {"libc": "musl"}, "no wheel for musl"),
        (("llamacpp",), "cpu", {"arch": "riscv64"}, "no wheel for linux on riscv64"),
        (("mlx",), "metal", {"os": "darwin", "arch": "arm64", "os_version": "macOS 13.6"}, "needs macOS 14"),
        (("torch",), "metal", {"os": "darwin", "arch": "arm64", "os_version": "macOS"}, "needs macOS 14"),
    ],
)
def test_an_engine_that_cannot_run_there_is_refused(
    engines: tuple[str, ...], backend: str, changes: dict[str, Any], why: str
) -> None:
    facts = replace(facts_of("ubuntu-4090"), **changes)
    with pytest.raises(Unsupported, match=why) as raised:
        choices.engines(replace(HOST, engines=engines), backend, facts)
    assert "in hosts.toml, give it engines = [" in str(raised.value.hint)


def test_an_engine_that_is_none_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="'torhc'") as raised:
        choices.engines(replace(HOST, engines=("torhc",)), "cpu", facts_of("debian-12"))
    assert raised.value.hint == "did you mean 'torch'?"


def test_a_preferred_engine_that_cannot_run_there_is_left_out_and_told() -> None:
    mac = {"os": "darwin", "arch": "arm64", "os_version": "macOS 13.6", "libc": ""}
    taken = choices.engines(HOST, "metal", replace(facts_of("debian-12"), **mac))
    assert [engine.value for engine in taken] == ["llamacpp"]
    assert taken[0].why_not["mlx"] == "needs macOS 14, there is macOS 13.6"


# ── service ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_system_units_are_taken_when_they_are_asked_for() -> None:
    facts = facts_of("ubuntu-h100")
    assert choices.service(HOST, facts, system=True).value == "systemd-system"
    assert choices.service(replace(HOST, service="systemd"), facts, system=True).value == "systemd-system"
    assert choices.service(replace(HOST, service="none"), facts).value == "none"
    mac = facts_of("macbook-intel")
    assert choices.service(HOST, mac, system=True).value == "launchd-system"


def test_root_without_a_manager_of_its_own_gets_system_units() -> None:
    facts = replace(facts_of("ubuntu-h100"), uid=0, user="root", services=("systemd-system", "none"))
    assert choices.service(HOST, facts).value == "systemd-system"
    assert choices.service(HOST, replace(facts, uid=1000, user="me")).value == "none"


@pytest.mark.parametrize(
    ("service", "system", "name", "why"),
    [
        ("systemd", False, "debian-12", "systemd does not answer there"),
        ("systemd-system", False, "ubuntu-4090", "me is not root, and sudo asks for a password"),
        ("auto", True, "ubuntu-4090", "me is not root, and sudo asks for a password"),
        ("auto", True, "mac-studio-m3-ultra", "me is not root, and sudo asks for a password"),
        ("auto", True, "alpine", "systemd does not answer there"),
        ("launchd", False, "ubuntu-4090", "linux has no launchd"),
        ("systemd", False, "mac-studio-m3-ultra", "darwin has no systemd"),
    ],
)
def test_a_service_that_does_not_work_there_is_refused(service: str, system: bool, name: str, why: str) -> None:
    with pytest.raises(Refused, match=why) as raised:
        choices.service(replace(HOST, service=service), facts_of(name), system)
    assert 'service = "none"' in str(raised.value.hint)


def test_system_units_and_none_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="--system"):
        choices.service(replace(HOST, service="none"), facts_of("ubuntu-h100"), system=True)


# ── Python ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_python_that_the_tests_run_on_is_taken_before_others() -> None:
    found = [Python(f"/{minor}", (3, minor, 1)) for minor in (8, 14, 10, 13, 12, 11)]
    facts = facts_of("no-python")
    taken = []
    while len(found) > 1:
        taken.append(choices.python(replace(facts, pythons=tuple(found))))
        found.remove(taken[-1])
    assert [python.version[1] for python in taken] == [11, 12, 13, 10, 14]


@pytest.mark.parametrize(
    ("name", "seen", "hint"),
    [
        ("no-python", "none was found", "type there: apt install python3 python3-venv"),
        ("rhel-old-python", "/usr/bin/python3.6 is 3.6.8", "type there: dnf install python3.11"),
        ("macbook-intel", "3 is 3.9.6", "type there: brew install python@3.11, or install one of python.org"),
        ("busybox", "none was found", "type there: install Python 3.11"),
    ],
)  # fmt: skip
def test_a_host_without_a_python_is_told_what_to_type(name: str, seen: str, hint: str) -> None:
    with pytest.raises(NoPython, match=r"there is no Python 3\.10 to 3\.14") as raised:
        choices.python(facts_of(name))
    assert seen in raised.value.message
    assert raised.value.hint == hint


def test_uv_brings_a_python_where_it_is() -> None:
    facts = replace(facts_of("no-python"), tools=(("uv", "/home/me/.local/bin/uv"),))
    with pytest.raises(NoPython) as raised:
        choices.python(facts)
    assert raised.value.hint == "type there: /home/me/.local/bin/uv python install 3.11"


def test_a_python_newer_than_any_wheel_is_none() -> None:
    with pytest.raises(NoPython):
        choices.python(replace(facts_of("no-python"), pythons=(Python("/usr/bin/python3", (3, 15, 0)),)))


@pytest.mark.parametrize("name", NAMES)
def test_every_refusal_says_what_to_type(name: str) -> None:
    facts: Facts = facts_of(name)
    for asked in (HOST, replace(HOST, backend="cuda", service="systemd", engines=("mlx",))):
        for choose in (
            lambda h=asked: choices.backend(h, facts),
            lambda h=asked: choices.engines(h, "cpu", facts),
            lambda h=asked: choices.service(h, facts),
            lambda h=asked: choices.python(facts),
        ):  # fmt: skip
            try:
                choose()
            except LlmctlError as error:
                assert error.hint
