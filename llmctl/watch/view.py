"""What is known of hosts at one moment: frozen, made from the looks that they send."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmctl import __version__
from llmctl.slots import status

OK, UNKNOWN, NOT_DEPLOYED, SKEW = "ok", "unknown", "not deployed", "skew"
KEPT_EVENTS = 100


@dataclass(frozen=True)
class HostView:
    """One host. `state` is OK, UNKNOWN (nobody could ask, `why` says why and `hint` what to type), NOT_DEPLOYED or SKEW
    (it answers, in another version). `at` is when it was heard last and `since` when its state became this, both by our
    clock; `clock` is its own clock at `at`. `memory` and `disk` are {free, total} bytes, `load` its load average of a
    minute. `slots` are rows of `status`: of an UNKNOWN host the last ones that were heard."""

    name: str
    state: str = UNKNOWN
    why: str | None = "not asked yet"
    hint: str | None = None
    since: float = 0.0
    at: float = 0.0
    clock: float = 0.0
    version: str | None = None
    memory: Mapping[str, int] | None = None
    disk: Mapping[str, int] | None = None
    load: float | None = None
    slots: tuple[Mapping[str, Any], ...] = ()
    shares: tuple[Mapping[str, Any], ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()

    def age(self, moment: float, now: float) -> float:
        """Seconds from a moment of the host's clock to `now` of ours, however wrong its clock is."""
        return max(0.0, now - self.at + self.clock - moment)


@dataclass(frozen=True)
class Snapshot:
    """All hosts, in the order in which they were asked for; `number` grows with each change, `at` is our clock."""

    number: int = 0
    at: float = 0.0
    hosts: Mapping[str, HostView] = field(default_factory=dict)

    def events(self, most: int = 50) -> list[dict[str, Any]]:
        """The newest events of all hosts, with their `host`, the newest last."""
        found = [{**event, "host": view.name} for view in self.hosts.values() for event in view.events]
        return sorted(found, key=lambda event: event["at"])[-most:]


def heard(before: HostView, look: Any, now: float) -> HostView:
    """The host after a look; ValueError for one that makes no sense."""
    try:
        slots = tuple(_slot(before.name, slot) for slot in look["slots"])
        events = tuple(_event(event) for event in look.get("events") or ())
        version, clock, load = str(look["version"]), float(look["at"]), look.get("load")
        memory, disk = _part(look.get("memory")), _part(look.get("disk"))
        shares = tuple(dict(share) for share in look.get("shares") or ())
        load = None if load is None else float(load)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"a look without sense: {error!r}") from None
    same = version == __version__
    why = None if same else f"{before.name} runs llmctl {version}, and this is {__version__}"
    return in_state(
        replace(
            before, at=now, clock=clock, version=version, load=load, slots=slots, shares=shares,
            events=(*before.events, *events)[-KEPT_EVENTS:], memory=memory, disk=disk,
        ),
        OK if same else SKEW, why, None if same else f"llmctl deploy {before.name}", now,
    )  # fmt: skip


def in_state(view: HostView, state: str, why: str | None, hint: str | None, now: float) -> HostView:
    """The host in that state, since now unless it was in it already."""
    return replace(view, state=state, why=why, hint=hint, since=view.since if state == view.state else now)


def fresh(name: str) -> HostView:
    """A host of which nothing is known yet."""
    return HostView(name, since=time.time())


def _slot(host: str, said: Mapping[str, Any]) -> dict[str, Any]:
    row = asdict(status.row(host, {**said, "port": int(said["port"]), "state": str(said["state"])}))
    for name in ("since", "tokens_per_second"):
        row[name] = float(row[name])
    for name in ("memory_bytes", "active", "queued"):
        row[name] = int(row[name])
    for name in ("model", "engine", "operation", "why", "version"):
        row[name] = None if row[name] is None else str(row[name])
    row["replicas"] = [_replica(replica) for replica in row["replicas"]]
    return row


def _replica(said: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: None if said[name] is None else str(said[name]) for name in ("where", "model", "why")}
    return {**said, **texts, "requests": int(said["requests"]), "handles": [str(name) for name in said["handles"]]}


def _event(said: Mapping[str, Any]) -> dict[str, Any]:
    known = {"port": None, "model": None, "outcome": "", "what": ""}
    return {**known, **said, "at": float(said["at"]), "kind": str(said["kind"])}


def _part(said: Any) -> dict[str, int] | None:
    return {name: int(said[name]) for name in ("free", "total")} if said else None
