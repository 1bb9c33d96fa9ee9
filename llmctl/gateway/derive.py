"""The registry of a fleet: what its profiles declare, and what its slots say they are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmctl import profiles
from llmctl.config import Config, HandleEntry, Host, Profile, ProfileSlot
from llmctl.domain import GATEWAY
from llmctl.gateway.registry import Handle, Registry, Replica, loop
from llmctl.keys import is_loopback
from llmctl.models.registry.naming import handle as handle_of

Rows = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Host → port → row of `status`; a host that nobody could ask is not there."""
Row = Mapping[str, Any]
NOTHING = Registry()


@dataclass(frozen=True)
class Problem:
    """What keeps a declaration from being what it says; `where` is the profile and the slot."""

    where: str
    what: str
    hint: str = ""


def derived(
    config: Config, known: Iterable[Profile], told: Rows, before: Registry = NOTHING
) -> tuple[Registry, list[Problem]]:  # fmt: skip
    """All handles. What a profile declares comes first; each model that runs, or would on demand where none does, has
    its own id besides. Of a host that nobody could ask, its slots are taken to be as the registry had them `before`."""
    rows = {name: told.get(name, _remembered(before, name)) for name in config.hosts}
    handles: dict[str, Handle] = {}
    found: list[Problem] = []
    for profile in known:
        for slot in profile.slots:
            for name in [slot.host] if slot.host else profiles.homes(config, profile.name):
                place = f"profile {profile.name}, {name}:{slot.port}"
                replica = _declared(config.hosts[name], profile.name, slot, rows[name])
                if replica is None:
                    found.append(Problem(place, f"no slot has {slot.model} yet", f"llmctl profile load {profile.name}"))
                    continue
                for entry in slot.named():
                    found += _join(handles, entry, replica, place)
    declared = {one.where: one for handle in handles.values() for one in handle.replicas}
    for name, slots in rows.items():
        for port, row in sorted(slots.items()):
            if row["model"] and row["engine"] != GATEWAY and row.get("ran", True):
                running = _running(config.hosts[name], port, row)
                as_declared = declared.get(running.where)
                same = as_declared and as_declared.model == running.model
                found_there = as_declared if as_declared and same else running
                if not found_there.on_demand:
                    _own(handles, found_there)
    for late in declared.values():
        own = handles.get(handle_of(late.model))
        if late.on_demand and (own is None or own.on_demand):
            _own(handles, late)
    registry = Registry(handles, next(iter(handles), None))
    return _sound(registry), [*found, *_fallbacks(registry)]


def _remembered(before: Registry, host: str) -> Mapping[int, Row]:
    """What the slots of a host would have said, by a registry. `ran`: the model was known to run, not only declared."""
    found: dict[int, Row] = {}
    for handle in before.handles.values():
        for one in handle.replicas:
            ran = handle.name == handle.group == handle_of(one.model)
            if one.host == host and (ran or one.port not in found):
                found[one.port] = {"model": one.model, "engine": one.engine, "handles": list(one.names), "ran": ran}
    return found


def _declared(
    host: Host, profile: str, slot: ProfileSlot, rows: Mapping[int, Row]
) -> Replica | None:  # fmt: skip
    port: int | None = slot.port if slot.port != "auto" else None
    if port is None:
        port = next((at for at, row in sorted(rows.items()) if row["model"] == slot.model), None)
    if port is None:
        return None
    row = None if slot.on_demand else rows.get(port)  # the same whether it is loaded now or not
    names = tuple(row["handles"]) if row and row["model"] == slot.model else ()
    return Replica(
        host.name, port, slot.model, (row["engine"] if row else None) or slot.engine, address(host, port), names,
        slot.on_demand, profile, slot.pinned,
    )  # fmt: skip


def _running(host: Host, port: int, row: Row) -> Replica:
    return Replica(host.name, port, row["model"], row["engine"] or "", address(host, port), tuple(row["handles"]))


def address(host: Host, port: int) -> str | None:
    """Where this machine reaches a slot; None: through the host's ssh."""
    if host.transport == "local":
        own = host.bind if host.bind and host.bind not in ("0.0.0.0", "::") else "127.0.0.1"
        return f"[{own}]:{port}" if ":" in own else f"{own}:{port}"
    return None if is_loopback(host.bind) else f"{host.address}:{port}"


def _join(handles: dict[str, Handle], entry: HandleEntry, replica: Replica, place: str) -> Iterator[Problem]:
    """Take a declaration up: a new handle, or one more replica of one."""
    before = handles.get(entry.name)
    if before is None:
        handles[entry.name] = Handle(replicas=(replica,), **vars(entry))
    elif entry.group is None or entry.group != before.group:
        others = ", ".join(one.where for one in before.replicas)
        yield Problem(
            place, f"the handle {entry.name} belongs to {others}",
            'another name, or the same group = "…" in both, which makes them replicas',
        )  # fmt: skip
    elif all(one.where != replica.where for one in before.replicas):
        handles[entry.name] = replace(before, replicas=(*before.replicas, replica))


def _own(handles: dict[str, Handle], replica: Replica) -> None:
    """The model's own id as a handle; several slots with one model are its replicas."""
    name = handle_of(replica.model)
    before = handles.get(name)
    if before is None:
        handles[name] = Handle(name, (replica,), group=name)
    elif before.group == name and all(one.where != replica.where for one in before.replicas):
        handles[name] = replace(before, replicas=(*before.replicas, replica))


def _fallbacks(registry: Registry) -> Iterator[Problem]:
    for one in registry.handles.values():
        for name in one.fallbacks:
            if name not in registry.handles:
                yield Problem(f"handle {one.name}", f"it falls back to {name}, which is none", "llmctl handles list")
        if way := loop(registry, one.name):
            yield Problem(f"handle {one.name}", f"it falls back to itself: {' → '.join(way)}", "take one of them out")


def _sound(registry: Registry) -> Registry:
    """Without the fallbacks that are none, and without all of a handle that leads back to itself: a gateway would not
    take it."""

    def kept(one: Handle) -> tuple[str, ...]:
        return () if loop(registry, one.name) else tuple(name for name in one.fallbacks if name in registry.handles)

    handles = {name: replace(one, fallbacks=kept(one)) for name, one in registry.handles.items()}
    return replace(registry, handles=handles)
