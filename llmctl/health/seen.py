"""What a host tells of itself and its slots in one look, before anybody judges it; JSON between machines.

Times are seconds, moments epoch seconds of the host's own clock, memory and disk bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmctl.domain import GATEWAY, build


@dataclass(frozen=True)
class Generation:
    """One short greedy answer: seconds to its first token, tokens/s from there on (None for a single token).

    `why` tells what was wrong with it, empty when it was sane. `seconds` is all of it, also of one that failed. `busy`:
    no answer came because the engine answers others. `model` is who answered; of a gateway the handle that was asked,
    None where it did not even list its handles.
    """

    why: str = ""
    first: float | None = None
    rate: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    model: str | None = None
    busy: bool = False


@dataclass(frozen=True)
class Unit:
    """The service manager's word of a slot: it comes back at boot, it is active, how often it was restarted."""

    service: str
    enabled: bool
    active: str
    restarts: int = 0


@dataclass(frozen=True)
class SlotSeen:
    """One port. `desired` is the model that should run, `model` the one that does; `crashes` those of the last ten
    minutes; `last_good` is the one that served before the desired one, to go back to. `disabled` says why it is held
    down. `replicas` are the slots behind a gateway, as its status has them."""

    port: int
    desired: str | None
    state: str
    model: str | None = None
    engine: str | None = None
    why: str | None = None
    since: float = 0.0
    operation: str | None = None
    disabled: str | None = None
    server: bool = False
    version: str | None = None
    unit: Unit | None = None
    active: int = 0
    queued: int = 0
    queue_limit: int = 0
    crashes: int = 0
    memory: int = 0
    last_good: str | None = None
    generation: Generation | None = None
    replicas: tuple[Mapping[str, Any], ...] = ()

    @property
    def measured(self) -> str | None:
        """By what name its figures are kept: of a gateway those of each handle by themselves."""
        if self.engine == GATEWAY and self.generation and self.generation.model:
            return f"{GATEWAY}/{self.generation.model}"
        return self.desired

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> SlotSeen:
        unit, said = data.get("unit"), data.get("generation")
        parts = {"unit": build(Unit, unit) if unit else None, "generation": build(Generation, said) if said else None}
        return build(SlotSeen, {**data, **parts})


@dataclass(frozen=True)
class Sensor:
    """A temperature in °C, with the one at which the maker slows the part down where it is known; `throttled`: why the
    part runs slower than it can; `watts` where it tells what it draws. `dead`: what it did in place of an answer."""

    name: str
    celsius: float | None = None
    limit: float | None = None
    throttled: str | None = None
    watts: float | None = None
    dead: str | None = None

    def hot(self, margin: float) -> bool:
        """Whether it is within so many degrees of its limit."""
        return self.celsius is not None and self.limit is not None and self.celsius >= self.limit - margin


@dataclass(frozen=True)
class HostSeen:
    """One host. `manifest` is the moment of its last deploy (None: never deployed), `drift` names what differs from the
    release that it should run. `events` are what its slots and deploys noted since the cursor that was asked for;
    `cursor` is where to go on. `deploying` is who deploys to it now."""

    at: float
    version: str
    slots: tuple[SlotSeen, ...] = ()
    disk_free: int = 0
    disk_total: int = 0
    memory_free: int = 0
    memory_total: int = 0
    backend: str = "cpu"
    sensors: tuple[Sensor, ...] = ()
    manifest: float | None = None
    drift: tuple[str, ...] = ()
    boot_id: str = ""
    events: tuple[Mapping[str, Any], ...] = ()
    cursor: str = ""
    deploying: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> HostSeen:
        return build(
            HostSeen,
            {
                **data,
                "slots": tuple(SlotSeen.from_dict(slot) for slot in data.get("slots", ())),
                "sensors": tuple(build(Sensor, sensor) for sensor in data.get("sensors", ())),
            },
        )
