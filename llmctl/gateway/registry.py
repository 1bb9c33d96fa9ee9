"""What the gateway knows of the fleet: handles, and the slots behind each; one JSON file that it reads and watches.

Derived from the profiles and from what slots tell (`derive`); nobody writes it by hand, and who does sees his mistake
while the gateway goes on with what it had.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.config import CHAT as CHAT
from llmctl.config import EMBEDDINGS as EMBEDDINGS
from llmctl.config import Promise
from llmctl.errors import LlmctlError, StateError, UnknownName, nearest
from llmctl.files import read_json, write_json
from llmctl.gateway.typed import typed

VERSION = 1
NAME = "registry.json"


@dataclass(frozen=True)
class Replica:
    """A slot that can answer for a handle. `address` is where the gateway's machine reaches it; None: through ssh, by
    the host's entry in hosts.toml. `model` and `names` are those that it knows itself by.
    One that is `on_demand` is loaded as its `profile` says; one that is `pinned` stays then."""

    host: str
    port: int
    model: str
    engine: str = ""
    address: str | None = None
    names: tuple[str, ...] = ()
    on_demand: bool = False
    profile: str | None = None
    pinned: bool = False

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Handle(Promise):
    """A public name, and the slots that can answer for it."""

    name: str
    replicas: tuple[Replica, ...] = ()

    @property
    def on_demand(self) -> bool:
        return any(replica.on_demand for replica in self.replicas)


@dataclass(frozen=True)
class Registry:
    """All handles, by name; `default` answers requests that name none."""

    handles: Mapping[str, Handle] = field(default_factory=dict)
    default: str | None = None

    def find(self, name: str | None) -> Handle:
        """The handle called `name`; UnknownName with the nearest ones."""
        if name in (None, "", "default") and self.default:
            return self.handles[self.default]
        found = self.handles.get(name or "") or self.handles.get((name or "").lower().replace(".", "-"))
        if found is None:
            close = nearest(name or "", self.handles)
            known = ", ".join(list(self.handles)[:8]) or "none; llmctl handles sync"
            hint = f"did you mean {close!r}?" if close else f"handles: {known}"
            raise UnknownName(f"there is no handle {(name or '')[:140]!r}", hint=hint)
        return found

    def chain(self, handle: Handle) -> Iterator[Handle]:
        """The handle, then its fallbacks and theirs, each once."""
        seen: set[str] = set()
        waiting = [handle.name]
        while waiting:
            name = waiting.pop(0)
            if name not in seen and name in self.handles:
                seen.add(name)
                yield self.handles[name]
                waiting += self.handles[name].fallbacks

    def to_dict(self) -> dict[str, Any]:
        return {"version": VERSION, "default": self.default, "handles": [asdict(one) for one in self.handles.values()]}

    @property
    def hash(self) -> str:
        """Of what it says, whatever the file looks like."""
        said = {**self.to_dict(), "handles": sorted(self.to_dict()["handles"], key=lambda one: str(one["name"]))}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def from_dict(data: Mapping[str, Any]) -> Registry:
    """From JSON; StateError names what makes no sense."""
    if not isinstance(data, Mapping):
        raise StateError("it is no registry", hint="llmctl handles sync")
    if data.get("version") != VERSION:
        raise StateError(
            f"it has version {data.get('version')!r}, this llmctl reads {VERSION}", hint="llmctl handles sync"
        )
    try:
        handles = [_handle(row) for row in data["handles"]]
        default = data.get("default")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"it is no registry: {error!r}", hint="llmctl handles sync") from None
    found = Registry({one.name: one for one in handles}, default)
    if wrong := list(problems(found, handles)):
        raise StateError("; ".join(wrong), hint="llmctl handles check")
    return found


def _handle(row: Mapping[str, Any]) -> Handle:
    return typed(Handle, {**row, "replicas": tuple(typed(Replica, one) for one in row["replicas"])})


def problems(registry: Registry, handles: Sequence[Handle]) -> Iterator[str]:
    """What is wrong with a registry as a whole."""
    names = [one.name for one in handles]
    yield from (f"handle {name} is there twice" for name in dict.fromkeys(names) if names.count(name) > 1)
    for one in handles:
        try:
            paths.check_name(one.name, "handle")
        except LlmctlError as error:
            yield error.message
        yield from (f"{one.name} falls back to {name}, which is none" for name in one.fallbacks if name not in names)
        if looping := loop(registry, one.name):
            yield f"{one.name} falls back to itself: {' → '.join(looping)}"
    if registry.default is not None and registry.default not in names:
        yield f"the default handle {registry.default} is none"


def loop(registry: Registry, name: str) -> list[str] | None:
    """The shortest way from a handle over fallbacks back to it; None without one."""
    before: dict[str, str] = {}  # how each was come to first
    waiting = deque([name])
    while waiting:
        at = waiting.popleft()
        for after in registry.handles[at].fallbacks if at in registry.handles else ():
            if after not in before:
                before[after] = at
                waiting.append(after)
        if name in before:
            way = [name, before[name]]
            while way[-1] != name:
                way.append(before[way[-1]])
            return way[::-1]
    return None


def path(home: Path) -> Path:
    return home / "gateway" / NAME


def read(home: Path) -> Registry:
    """The registry of a state folder, empty without one; StateError for one that makes no sense."""
    file = path(home)
    data = read_json(file, restore=False)
    if data is None:
        return Registry()
    try:
        return from_dict(data)
    except StateError as error:
        raise StateError(f"{file}: {error.message}", hint=error.hint) from None


def write(home: Path, registry: Registry) -> None:
    path(home).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(path(home), registry.to_dict())
