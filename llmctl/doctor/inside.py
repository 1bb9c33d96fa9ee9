"""What a host tells of itself for the doctor: facts that only a program on it can see; JSON between machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llmctl.domain import build
from llmctl.health.seen import Sensor


@dataclass(frozen=True)
class SlotInside:
    """One slot. `due` is what it needs to run the release in use (host.slots.due); `residency` bytes of weights by
    device; `memory` bytes of its engine; `unit` what its service manager says ("active", …), "" for none."""

    port: int
    model: str | None = None
    wanted: bool = False
    state: str = "empty"
    why: str = ""
    service: str = "none"
    enabled: bool = False
    unit: str = ""
    due: tuple[str, ...] = ()
    engine: str | None = None
    residency: Mapping[str, int] = field(default_factory=dict)
    memory: int = 0
    queued: int = 0
    bind: str = "127.0.0.1"


@dataclass(frozen=True)
class Foreign:
    """A process that is no slot server and listens on a port of the managed range; `mine`: its user is llmctl's."""

    port: int
    pid: int | None = None
    program: str = ""
    mine: bool = False


@dataclass(frozen=True)
class Mac:
    """`wired` is iogpu.wired_limit_mb (0: the system's own), `sleep` minutes until it sleeps (0: never)."""

    wired: int | None = None
    sleep: int | None = None
    filevault: bool | None = None


@dataclass(frozen=True)
class Inside:
    """One host. `release` is the one in use, None where nothing was deployed; `drift` what differs from it. `loose` are
    files that others may read, with the mode that they should have. `native_why` says why llama.cpp is not the one of
    its CPU, "" where it is. `cpu_builds` are environments whose library has no code for a GPU. `synchronized`: NTP."""

    home: str
    release: str | None = None
    deployed: float | None = None
    drift: tuple[str, ...] = ()
    service: str = "none"
    slots: tuple[SlotInside, ...] = ()
    foreign: tuple[Foreign, ...] = ()
    disk_free: int = 0
    disk_total: int = 0
    memory_free: int = 0
    memory_total: int = 0
    backend: str = "cpu"
    sensors: tuple[Sensor, ...] = ()
    loose: tuple[tuple[str, int], ...] = ()
    keys: str = ""
    native: bool = False
    native_due: bool = False
    native_why: str = ""
    compiler: bool = False
    cpu_builds: tuple[str, ...] = ()
    synchronized: bool | None = None
    mac: Mac | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Inside:
        """From JSON; TypeError or ValueError when it is none."""
        mac = data.get("mac")
        parts = {
            "slots": tuple(build(SlotInside, slot) for slot in data.get("slots", ())),
            "foreign": tuple(build(Foreign, one) for one in data.get("foreign", ())),
            "sensors": tuple(build(Sensor, one) for one in data.get("sensors", ())),
            "loose": tuple((str(name), int(mode)) for name, mode in data.get("loose", ())),
            "mac": build(Mac, mac) if mac else None,
        }
        return build(Inside, {**data, **parts})
