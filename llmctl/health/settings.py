"""health.toml: when a slot is not well, how it is healed and who is told; beside hosts.toml, and nobody needs one.

Its top is for every slot; a table [hosts.NAME] is over it, and a table [slots."NAME:PORT"] over that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from llmctl import tables
from llmctl.health.target import Target, from_table
from llmctl.health.verdict import Rules
from llmctl.tables import Table

NAME = "health.toml"


@dataclass(frozen=True)
class HealSettings:
    """How much may be done to one slot: `restarts` in vain before its last good model is tried, `budget` of all that
    is done within `window` seconds, `backoff` seconds after the first, doubled each time, `patience` with a start."""

    on: bool = True
    restarts: int = 3
    budget: int = 4
    window: float = 3600.0
    backoff: float = 240.0
    patience: float = 900.0
    last_good: bool = True


@dataclass(frozen=True)
class MessageSettings:
    """What people are told: after how many runs in a row that found a slot down, unknown or degraded (0: never), that
    it is well once it was for `steady` seconds, and again each `remind` seconds that it is not (0: never)."""

    down: int = 1
    unknown: int = 2
    degraded: int = 2
    steady: float = 600.0
    remind: float = 0.0


@dataclass(frozen=True)
class Part:
    """What holds for one slot or host. `timeout` is seconds for its short answer."""

    rules: Rules = Rules()
    timeout: float = 30.0
    heal: HealSettings = HealSettings()


@dataclass(frozen=True)
class Settings(Part):
    """A health.toml that was read: what holds for all, and in `parts` what holds for some in place of that.

    `most` are the slots of the whole fleet that one run may heal.
    """

    most: int = 2
    messages: MessageSettings = MessageSettings()
    notify: tuple[Target, ...] = ()
    parts: Mapping[tuple[str, int | None], Part] = field(default_factory=dict)

    def of(self, host: str, port: int | None = None) -> Part:
        """What holds for a slot, or for the host itself."""
        return self.parts.get((host, port)) or self.parts.get((host, None)) or self

    def within(self, timeout: float) -> Settings:
        """The same, where every slot has these seconds for its answer."""
        parts = {key: replace(part, timeout=timeout) for key, part in self.parts.items()}
        return replace(self, timeout=timeout, parts=parts)


def read(folder: Path | None, hosts: Collection[str] | None = None) -> Settings:
    """The health.toml of the configuration `folder`, or what holds without one; ConfigError for a mistake in it.

    `hosts` are the names that it may speak of; None: any.
    """
    path = folder / NAME if folder else None
    if path is None or not path.exists():
        return Settings()
    root = tables.read(path)
    root.only("timeout", "rules", "heal", "messages", "notify", "hosts", "slots")
    every = _part(root, Part(), "most")
    own = _hosts(root.table("hosts"), every, hosts)
    return Settings(
        every.rules,
        every.timeout,
        every.heal,
        most=root.table("heal").integer("most", Settings.most),
        messages=_messages(root.table("messages")),
        notify=_notify(root),
        parts={**own, **_slots(root.table("slots"), every, own, hosts)},
    )


def _part(table: Table, base: Part, *besides: str) -> Part:
    """What `table` says of rules, timeout and heal, over `base`."""
    rules, heal = table.table("rules"), table.table("heal")
    rules.only(*(one.name for one in fields(Rules)))
    heal.only(*(one.name for one in fields(HealSettings)), *besides)
    return Part(
        replace(base.rules, **_said(rules, _RULES)),
        table.seconds("timeout") or base.timeout,
        replace(base.heal, **_said(heal, _HEAL)),
    )


_RULES = {
    "slower": "factor", "runs": "integer", "fewest": "integer", "floor": "seconds", "queue": "share", "disk": "size",
    "memory": "share", "skew": "seconds", "hot": "number", "deploy_age": "seconds",
}  # fmt: skip
_HEAL = {
    "on": "flag", "restarts": "integer", "budget": "integer", "window": "seconds", "backoff": "seconds",
    "patience": "seconds", "last_good": "flag",
}  # fmt: skip


def _said(table: Table, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The fields that a table sets."""
    own = {"factor": _factor, "share": _share}
    return {
        key: own[kind](table, key) if kind in own else getattr(table, kind)(key)
        for key, kind in kinds.items()
        if key in table.data
    }


def _factor(table: Table, key: str) -> float:
    if (found := float(table.number(key))) <= 1:
        raise table.mistake(key, f"must be more than 1, not {found:g}", "2 is twice as slow as usual")
    return found


def _share(table: Table, key: str) -> float:
    if not 0 < (found := float(table.number(key))) <= 1:
        raise table.mistake(key, f"must be a share from 0 to 1, not {found:g}", "0.8 is four fifths")
    return found


def _messages(table: Table) -> MessageSettings:
    names = [one.name for one in fields(MessageSettings)]
    table.only(*names)
    found: dict[str, Any] = {key: _runs(table, key) for key in ("down", "unknown", "degraded") if key in table.data}
    for key in ("steady", "remind"):
        if key in table.data:
            found[key] = table.seconds(key) if table.data[key] != 0 else 0.0
    return MessageSettings(**found)


def _runs(table: Table, key: str) -> int:
    if type(found := table.data[key]) is not int or not 0 <= found <= 100:
        raise table.mistake(key, f"must be a number of runs in a row, 0 for never, not {found!r}")
    return found


def _notify(root: Table) -> tuple[Target, ...]:
    found: list[Target] = []
    for table in root.tables("notify"):
        target = from_table(table)
        if any(target.name == other.name for other in found):
            raise table.mistake("name", f"{target.name!r} is there twice", 'give each its own: name = "…"')
        found.append(target)
    return tuple(found)


def _hosts(table: Table, every: Part, hosts: Collection[str] | None) -> dict[tuple[str, int | None], Part]:
    found: dict[tuple[str, int | None], Part] = {}
    for name in table.data:
        _known(table, name, name, hosts)
        own = table.table(name)
        own.only("timeout", "rules", "heal")
        found[name, None] = _part(own, every)
    return found


def _slots(
    table: Table, every: Part, own: Mapping[tuple[str, int | None], Part], hosts: Collection[str] | None
) -> dict[tuple[str, int | None], Part]:
    found: dict[tuple[str, int | None], Part] = {}
    for key in table.data:
        name, _, port = key.rpartition(":")
        if not name or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise table.mistake(key, "must be a slot", '[slots."HOST:8101"]')
        _known(table, key, name, hosts)
        one = table.table(key)
        one.only("timeout", "rules", "heal")
        found[name, int(port)] = _part(one, own.get((name, None), every))
    return found


def _known(table: Table, key: str, name: str, hosts: Collection[str] | None) -> None:
    if hosts is not None and name not in hosts:
        raise table.mistake(key, f"there is no host {name}", f"hosts: {', '.join(sorted(hosts))}")
