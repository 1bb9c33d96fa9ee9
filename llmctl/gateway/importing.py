"""What becomes of the lines of a handles.jsonl: handles of profiles' slots, or lines that are kept apart. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from llmctl import profiles
from llmctl.config import CHAT, EMBEDDINGS, Config, HandleEntry, Profile, Promise
from llmctl.domain import ENGINES
from llmctl.errors import StateError
from llmctl.gateway import registry as registries
from llmctl.gateway.derive import Problem
from llmctl.gateway.jsonl import SIDECAR, Line, endpoint
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.models.registry.naming import handle as handle_of

SPELLED = (*ENGINES, "auto", "ov")
"""How an engine may stand in the name of an endpoint."""


@dataclass(frozen=True)
class Place:
    """A slot of a profile on one host: the `index`-th of its file. `names` are the handles that it declares."""

    profile: str
    index: int
    host: str
    port: int
    model: str
    names: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def entry(self) -> tuple[str, int]:
        """Where it is written: a slot without a host is one entry, and a place on each host of its profile."""
        return self.profile, self.index

    def __str__(self) -> str:
        return f"profile {self.profile}, {self.where}"

    def endpoints(self) -> set[str]:
        return endpoints(self.host, self.port)


@dataclass(frozen=True)
class Plan:
    """`added` are handles that profiles get, `apart` lines that are kept, each with why; with a problem nothing is
    done."""

    added: tuple[tuple[Place, HandleEntry], ...] = ()
    apart: tuple[tuple[Line, str], ...] = ()
    problems: tuple[Problem, ...] = ()


def endpoints(host: str, port: int) -> set[str]:
    """All names that a slot's endpoint may have in a file: with and without the host."""
    made = [Replica(host, port, "", engine) for engine in SPELLED]
    return {endpoint(one, several) for one in made for several in (True, False)}


def places(config: Config, known: Iterable[Profile], registry: Registry) -> Iterator[Place]:
    """The slots of all profiles; one with the port `auto` where the registry has it."""
    for profile in known:
        for index, slot in enumerate(profile.slots):
            for host in [slot.host] if slot.host else profiles.homes(config, profile.name):
                names = tuple(entry.name for entry in slot.named())
                port = slot.port if slot.port != "auto" else _port(registry, host, profile.name, slot.model)
                if port is not None:
                    yield Place(profile.name, index, host, port, slot.model, names)


def _port(registry: Registry, host: str, profile: str, model: str) -> int | None:
    found = (one for handle in registry.handles.values() for one in handle.replicas)
    of_it = (one for one in found if (one.host, one.model) == (host, model) and one.profile in (None, profile))
    return next((one.port for one in of_it), None)


def plan(
    lines: Iterable[Line], slots: Sequence[Place], registry: Registry, extras: Mapping[str, Any], kept: Sequence[Line]
) -> Plan:  # fmt: skip
    """`extras` is what a sidecar says of each handle, `kept` are the lines that are kept apart already."""
    added: list[tuple[Place, HandleEntry]] = []
    apart: list[tuple[Line, str]] = []
    problems: list[Problem] = []
    for line in lines:
        try:
            place = None if _there(line, slots, registry) or line in kept else _place(line, slots, registry)
            if isinstance(place, str):
                apart.append((line, place))
            elif place and line.handle != handle_of(place.model):
                added += _entries(line, place, slots, extras.get(line.handle))
        except _Problem as problem:
            problems.append(problem.problem)
    return Plan(tuple(added), tuple(apart), tuple(problems))


class _Problem(Exception):
    def __init__(self, line: Line, what: str, hint: str) -> None:
        super().__init__(what)
        self.problem = Problem(f"handle {line.handle}", what, hint)


def _there(line: Line, slots: Sequence[Place], registry: Registry) -> bool:
    """Whether the slot has that handle already."""
    if line.kind != "model":
        return False
    has = registry.handles.get(line.handle)
    held = any(line.endpoint_ref in endpoints(one.host, one.port) for one in has.replicas) if has else False
    return held or any(line.handle in place.names and line.endpoint_ref in place.endpoints() for place in slots)


def _place(line: Line, slots: Sequence[Place], registry: Registry) -> Place | str:
    """The slot that a line means; why it is no slot of llmctl."""
    has = registry.handles.get(line.handle)
    holders = [one.where for one in has.replicas] if has else []
    if holders := holders or [place.where for place in slots if line.handle in place.names]:
        what = f"it stands for {', '.join(holders)} here, and in the file for {line.endpoint_ref}"
        raise _Problem(line, what, "another name there")
    if line.kind != "model" or line.invoke not in (CHAT, EMBEDDINGS):
        return f"it is called by {line.invoke}"
    found = [place for place in slots if line.endpoint_ref in place.endpoints()]
    if len({place.entry for place in found}) > 1:
        names = "; ".join(map(str, found))
        raise _Problem(line, f"{line.endpoint_ref} may be any of: {names}", "add --host HOST or --profile NAME")
    return found[0] if found else f"no profile has a slot {line.endpoint_ref}"


def _entries(
    line: Line, place: Place, slots: Sequence[Place], extra: Any
) -> Iterator[tuple[Place, HandleEntry]]:  # fmt: skip
    """The handle in its slot, and in those of its other replicas by the sidecar."""
    found = _handle(line, extra)
    promise = {one.name: getattr(found, one.name) for one in fields(Promise)}
    entry = HandleEntry(line.handle, **{**promise, "invoke": line.invoke, "notes": line.notes})
    where = {one.where for one in found.replicas}
    also = [other for other in slots if other.where in where]
    yield from ((one, entry) for one in {other.entry: other for other in (*also, place)}.values())


def _handle(line: Line, extra: Any) -> Handle:
    """What the sidecar says of it, with the types that it must have."""
    if not isinstance(extra, dict):
        return Handle(line.handle)
    fallbacks = extra.get("fallbacks", [])
    row = {"replicas": [], **extra, "name": line.handle, "fallbacks": []}
    try:
        if not isinstance(fallbacks, list) or not all(isinstance(name, str) for name in fallbacks):
            raise TypeError(f"fallbacks = {fallbacks!r:.80}")
        found = registries.from_dict({"version": registries.VERSION, "handles": [row]}).handles[line.handle]
        return replace(found, fallbacks=tuple(fallbacks))
    except (StateError, TypeError) as error:
        raise _Problem(line, f"{SIDECAR}: {error}", "mend it there") from None
