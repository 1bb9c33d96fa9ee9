"""Where a slot's state lies, and its three parts: desired, actual, last-known-good."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.domain import EMPTY, Limits, MediaPolicy, OnDemand, SlotSpec, build
from llmctl.errors import LlmctlError, from_dict
from llmctl.files import read_json, write_json
from llmctl.slots import control


@dataclass(frozen=True)
class Launch:
    """How a slot server listens and what it may use; kept in its desired state so that it comes back the same.

    `memory_budget` is bytes (None: the machine's memory), `backend` names whose memory is measured, `service` (of
    config.SERVICES) what keeps it running; "auto" is as it was before. `on_demand` is of gateways alone.
    """

    bind: str = "127.0.0.1"
    limits: Limits = Limits()
    require_key: bool = False
    memory_budget: int | None = None
    backend: str = "cpu"
    service: str = "none"
    media: MediaPolicy = MediaPolicy()
    on_demand: OnDemand = OnDemand()

    def after(self, before: Launch) -> Launch:
        """This, where the one before settles what "auto" is."""
        return replace(self, service=before.service) if self.service == "auto" else self

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Launch:
        policy = build(MediaPolicy, data.get("media") or {})
        policy = replace(policy, url_hosts=tuple(policy.url_hosts))
        parts = {"limits": build(Limits, data.get("limits") or {}), "media": policy}
        return build(Launch, {**data, **parts, "on_demand": build(OnDemand, data.get("on_demand") or {})})


@dataclass(frozen=True)
class Disabled:
    """Why a slot is held down, and until when (ISO date-time; None: until `enable`)."""

    why: str
    until: str | None = None

    def over(self, now: float | None = None) -> bool:
        if self.until is None:
            return False
        moment = datetime.datetime.fromisoformat(self.until).astimezone().timestamp()
        return (time.time() if now is None else now) >= moment


@dataclass(frozen=True)
class Desired:
    """What should run on a port. Changes only when an operator's change has succeeded."""

    spec: SlotSpec | None = None
    disabled: Disabled | None = None
    launch: Launch = Launch()


@dataclass(frozen=True)
class Actual:
    """What runs, as last written by the slot server. `served` maps names to (model, until when they stay valid);
    `before` is what served before the model that is desired now: to go back to when that one fails for good. `replaced`
    is what the last change put out, whatever it was: to undo that change."""

    state: str = EMPTY
    since: float = 0.0
    server: Mapping[str, Any] | None = None
    engine: Mapping[str, Any] | None = None
    last_known_good: SlotSpec | None = None
    before: SlotSpec | None = None
    replaced: SlotSpec | None = None
    served: Mapping[str, float] = field(default_factory=dict)
    last_load: float = 0.0
    why: str | None = None


def last_good(actual: Actual) -> str | None:
    """The model to go back to."""
    return actual.before.model if actual.before else None


class SlotFolder:
    """The files of one port under `home/slots/<port>/` (0700)."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.port = home, port
        self.path = paths.slot(home, port)
        self.control = self.path / control.NAME
        self.log = self.path / "engine.log"
        self.lock = self.path / "server.lock"
        self.errors = self.path / "server.err"
        self.refusal = self.path / "refusal.json"

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def read_desired(self) -> Desired:
        data = read_json(self.path / "desired.json")
        if data is None:
            return Desired()
        return Desired(
            SlotSpec.from_dict(data["spec"]) if data.get("spec") else None,
            build(Disabled, data["disabled"]) if data.get("disabled") else None,
            Launch.from_dict(data.get("launch") or {}),
        )

    def write_desired(self, desired: Desired) -> None:
        write_json(self.path / "desired.json", asdict(desired))

    def read_actual(self) -> Actual:
        data = read_json(self.path / "actual.json")
        if data is None:
            return Actual()
        kept = ("last_known_good", "before", "replaced")
        specs = {key: SlotSpec.from_dict(data[key]) for key in kept if data.get(key)}
        return build(Actual, {**data, **specs})

    def write_actual(self, actual: Actual) -> None:
        write_json(self.path / "actual.json", asdict(actual))

    def read_refusal(self) -> LlmctlError | None:
        """Why the slot server's last start was refused, when nobody waited for its answer; None when it was not."""
        try:
            return from_dict(json.loads(self.refusal.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None
