"""The look of a host at itself: what `llmctl host doctor` answers. Reads only; what may hang has a deadline."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from llmctl import keys, units
from llmctl.config import Host
from llmctl.doctor import permissions
from llmctl.doctor.clock import synchronized
from llmctl.doctor.inside import Foreign, Inside, Mac, SlotInside
from llmctl.environments import installed
from llmctl.environments.pins import site_packages
from llmctl.errors import LlmctlError
from llmctl.health import machine, sensors
from llmctl.host import activation, releases
from llmctl.host import slots as deploys
from llmctl.native import builds
from llmctl.processes import asked
from llmctl.slots import listening, status
from llmctl.slots.state import SlotFolder

TIMEOUT = 5.0
WITH_GPU = ("torch", "llamacpp")
"""Environments whose packages come in a build for CPUs alone too."""


def inside(home: Path, host: Host) -> Inside:
    """This machine; `host` is its entry."""
    here = machine.machine(home, host.backend, host.models(home))
    slots = tuple(_slots(home))
    native, problem = builds.described(home), _key_problem(home)
    return Inside(
        home=str(home),
        release=releases.current(home),
        deployed=here["manifest"],
        drift=here["drift"],
        service=activation.service(home) or "none",
        slots=slots,
        foreign=tuple(_foreign(host, {slot.port for slot in slots if slot.unit != DOWN})),
        **{key: here[key] for key in ("disk_free", "disk_total", "memory_free", "memory_total", "backend")},
        sensors=sensors.sensors(home=home),
        loose=tuple(permissions.loose(home)),
        keys=problem,
        native=native["library"] is not None,
        native_due=builds.due(home),
        native_why="" if native["library"] else str(native["serves"]).removeprefix("the wheel: "),
        compiler=native["compiler"] is not None,
        cpu_builds=tuple(_cpu_builds()),
        synchronized=synchronized(),
        mac=_mac() if platform.system() == "Darwin" else None,
    )


DOWN = "no server"


def _slots(home: Path) -> Iterator[SlotInside]:
    release = releases.current(home)
    try:
        wanted = activation.of_release(home, release) if release else None
    except LlmctlError:  # told by `drift`
        wanted = None
    pythons = activation.pythons(home, wanted).values() if wanted else ()
    service = activation.service(home) or "none"
    seen = {slot.port: slot for slot in deploys.seen(home)}
    for row in status.status(home):
        slot, folder = seen[row.port], SlotFolder(home, row.port)
        due = deploys.due(home, slot, release, pythons, service) if release and wanted else []
        try:
            unit, bind = units.get(slot.service).state(home, row.port), folder.read_desired().launch.bind
        except LlmctlError as error:
            unit, bind = units.UnitState(False, error.message), "127.0.0.1"
        yield SlotInside(
            port=row.port, model=slot.model, wanted=slot.wanted, state=row.state, why=row.why or "",
            service=slot.service, enabled=unit.enabled, unit=unit.active if row.runner_pid else DOWN, due=tuple(due),
            engine=row.engine, residency=row.residency, memory=row.memory_bytes, queued=row.queued, bind=bind,
        )  # fmt: skip


def _foreign(host: Host, ours: Collection[int]) -> Iterator[Foreign]:
    """Who else listens in the managed range."""
    for port in range(host.ports[0], host.ports[1] + 1):
        if port not in ours and (found := listening.find(port)):
            program = Path(found.argv[0]).name if found.argv else ""
            yield Foreign(port, found.pid, program, found.mine)


def _key_problem(home: Path) -> str:
    try:
        keys.read(home)
    except LlmctlError as error:
        return error.message
    except OSError as error:
        return f"keys.json cannot be read: {error.strerror}"
    return ""


def _cpu_builds() -> Iterator[str]:
    """Environments of this release with a build for CPUs alone, by the versions of their packages ("2.9.1+cpu")."""
    try:
        known = installed.environments(installed.RELEASE)
    except LlmctlError:  # told by `drift`
        return
    for name, python in known.items():
        if name.split("-")[0] in WITH_GPU:
            for folder in site_packages(Path(python)):
                if next(folder.glob("torch-*+cpu.dist-info"), None):
                    yield name


# ── macOS, never run ────────────────────────────────────────────────────────────────────────────────────────────────


def _mac() -> Mac:
    said = {argv[0]: done.stdout for argv in ASKED if (done := asked(argv, TIMEOUT)) and not done.returncode}
    return mac(said.get("sysctl", ""), said.get("pmset", ""), said.get("fdesetup", ""))


ASKED = (("sysctl", "-n", "iogpu.wired_limit_mb"), ("pmset", "-g"), ("fdesetup", "status"))


def mac(wired: str, pmset: str, fdesetup: str) -> Mac:
    """From what sysctl, `pmset -g` and `fdesetup status` print; what is no answer is None. Pure."""
    sleep = re.search(r"^\s*sleep\s+(\d{1,5})\b", pmset, re.MULTILINE)
    vault = re.search(r"FileVault is (On|Off)", fdesetup)
    limit = re.fullmatch(r"\s*(\d{1,9})\s*", wired)
    return Mac(int(limit[1]) if limit else None, int(sleep[1]) if sleep else None, vault[1] == "On" if vault else None)
