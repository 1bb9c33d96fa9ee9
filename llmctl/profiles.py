"""What profiles would change on a host, and how a slot is written into one; reads and decides, starts nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmctl import config as configs
from llmctl import tables
from llmctl.catalog import Catalog, Model
from llmctl.config import CHAT, Config, HandleEntry, Profile, ProfileSlot
from llmctl.domain import SlotSpec
from llmctl.errors import ConfigError, UsageError
from llmctl.models import store

KEEP, LOAD, SWAP, START, UNLOAD = "keep", "load", "swap", "start", "unload"
EXTRA, HELD = "extra", "held"
STILL = (KEEP, EXTRA, HELD)

Value = str | int | Sequence[str] | None
"""Of a setting in a profile's file."""


@dataclass(frozen=True)
class Now:
    """What a slot is to run by its own state; `tuning` are the fields of a config.Tuning, `held` is why it is disabled,
    `down` that nothing serves it."""

    spec: SlotSpec | None
    quantization: str | None = None
    held: str | None = None
    down: bool = False
    tuning: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What to do on one port: LOAD, SWAP, START (the model is right, nothing serves it) or UNLOAD; or nothing, because
    all is as it should be (KEEP), the port is disabled (HELD), or no profile has it (EXTRA).

    `differs` names each setting that is not as the profile says: "context 4096 → 8192".
    """

    port: int
    action: str
    model: str | None
    current: str | None = None
    differs: tuple[str, ...] = ()
    slot: ProfileSlot | None = None


def plan(
    slots: Sequence[ProfileSlot],
    running: Mapping[int, Now],
    free_port: Callable[[set[int]], int],
    prune: bool = False,
    demand: bool = False,
) -> list[Step]:
    """The steps that make a host run `slots`, in their order; what it runs besides comes last: EXTRA, or UNLOAD.

    An `auto` slot stays where its model runs already; else it takes the port that `free_port(taken)` gives. One that
    is loaded on demand may be empty, unless it is just that which is asked for (`demand`).
    """
    taken = {slot.port for slot in slots if slot.port != "auto"}
    steps = []
    for slot in slots:
        if slot.port == "auto":
            homes = [p for p, now in sorted(running.items()) if _runs(now, slot.model) and p not in taken]
            port = homes[0] if homes else free_port(taken)
            taken.add(port)
        else:
            port = slot.port
        steps.append(_step(port, slot, running.get(port), demand))
    rest = [(port, now.spec) for port, now in sorted(running.items()) if port not in taken]
    return [*steps, *(Step(p, UNLOAD if prune else EXTRA, None, spec.model) for p, spec in rest if spec)]


def _runs(now: Now, model: str) -> bool:
    return now.spec is not None and now.spec.model == model


def _step(port: int, slot: ProfileSlot, now: Now | None, demand: bool) -> Step:
    spec = now.spec if now else None
    if slot.on_demand and not demand and spec is None:
        return Step(port, KEEP, slot.model, None, ("loaded at its first request",), slot)
    current = spec.model if spec else None
    if now and now.held is not None:
        return Step(port, HELD, slot.model, current, (f"disabled: {now.held}",), slot)
    if not now or not spec:
        return Step(port, LOAD, slot.model, slot=slot)
    if spec.model != slot.model:
        return Step(port, SWAP, slot.model, current, slot=slot)
    quantization = slot.quantization.casefold() if slot.quantization else None
    pairs = (
        ("engine", spec.engine.engine, None if slot.engine == "auto" else slot.engine),
        ("quantization", now.quantization, quantization),
        ("context", spec.engine.context, slot.context),
        ("parallel", spec.engine.parallel, slot.parallel),
        ("idle_unload", spec.idle_unload, slot.idle_unload),
        ("handles", None, ", ".join(one.name for one in slot.named() if one.name not in spec.names) or None),
    )
    wanted_tuning = slot.tuning()
    differs = tuple(f"{key} {is_} → {wanted}" for key, is_, wanted in pairs if wanted is not None and is_ != wanted)
    differs += tuple(
        f"{key} {_told(is_)} → {_told(wanted_tuning[key])}"
        for key, is_ in now.tuning.items()
        if is_ != wanted_tuning[key]
    )
    may_go = slot.on_demand and not slot.pinned
    if spec.evictable != may_go:
        differs += (f"evictable {spec.evictable} → {may_go}",)
    if spec.exclusive != slot.exclusive:
        differs += (f"exclusive {_told(spec.exclusive)} → {_told(slot.exclusive)}",)
    if not differs and now.down:
        return Step(port, START, slot.model, current, ("nothing serves it",), slot)
    return Step(port, SWAP if differs else KEEP, slot.model, current, differs, slot)


def _told(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str("none" if value is None else value)


def as_slot(port: int, spec: SlotSpec, model: Model, models_dir: Path, tuning: Mapping[str, Any] = {}) -> ProfileSlot:
    """What a profile must say to get `spec` again."""
    usual = {*model.aliases, model.id.replace(".", "-")}
    return ProfileSlot(
        port=port,
        model=spec.model,
        engine=spec.engine.engine,
        quantization=quantization_of(spec, model, models_dir),
        context=spec.engine.context,
        parallel=spec.engine.parallel,
        handle=next((name for name in spec.names if name not in usual), None),
        idle_unload=spec.idle_unload,
        on_demand=spec.evictable or spec.exclusive is not None,
        pinned=spec.exclusive is not None and not spec.evictable,
        exclusive=spec.exclusive,
        **tuning,
    )


def quantization_of(spec: SlotSpec, model: Model, models_dir: Path) -> str | None:
    """Which of the model's artifacts on this host `spec` runs."""
    of_path = {str(path): artifact.quantization for artifact, path in store.present(model, models_dir)}
    return of_path.get(spec.engine.path)


def as_toml(description: str, slots: Iterable[ProfileSlot]) -> str:
    """A profile file; settings that are as usual are left out."""
    return "\n".join([f"description = {_value(description)}\n", *map(slot_toml, slots)])


def slot_toml(slot: ProfileSlot) -> str:
    """One `[[slots]]` table, with those of its handles."""
    values = {key: value for key, value in asdict(slot).items() if key not in (*slot.tuning(), "handles")}
    return "\n".join([_table("slots", values | slot.tuning()), *map(handle_toml, slot.handles)])


def handle_toml(entry: HandleEntry) -> str:
    """One `[[slots.handles]]` table."""
    prompt, completion = entry.price
    price = f"price = {{prompt = {prompt!r}, completion = {completion!r}}}\n" if entry.price != (0.0, 0.0) else ""
    invoke = entry.invoke if entry.invoke != CHAT else None
    return _table("slots.handles", {"name": entry.name, **asdict(entry), "price": None, "invoke": invoke}) + price


def _table(name: str, values: Mapping[str, Any]) -> str:
    said = {key: value for key, value in values.items() if value not in (None, "auto", ()) and value is not False}
    return f"[[{name}]]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in said.items())


def _value(value: Any) -> str:
    """As TOML has it: like JSON, but without surrogates and DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def with_slots(profile: Profile, host: str, slots: Iterable[ProfileSlot]) -> str | None:
    """The text of `profile` and behind it those of `slots` (of `host`) that it has not yet; None when it has all.

    ConfigError names the line of a port that it gives to another model, engine's format or handle.
    """
    text = profile.path.read_text(encoding="utf-8")
    known, added = tables.lines(text), []
    for slot in slots:
        at = [i for i, old in enumerate(profile.slots) if old.port == slot.port and (old.host or host) == host]
        old = profile.slots[at[0]] if at else None
        if old and (old.model, old.quantization, old.handle) != (slot.model, slot.quantization, slot.handle):
            line = known.get(("slots", at[0], "port"), 1)
            raise ConfigError(
                f"{profile.path}:{line}: port {slot.port} has {old.model}, and {slot.model} is to be on it",
                hint="take that slot out, or name another profile with --profile",
            )
        if old is None:
            added.append(slot_toml(slot))
    if added and profile.slots and ("slots", 0) not in known:
        raise ConfigError(f"{profile.path}: its slots are not written as [[slots]] tables", hint="change it by hand")
    return "\n".join([text.rstrip("\n") + "\n", *added]) if added else None


@dataclass(frozen=True)
class Edit:
    """A checked change of one profile file that is not written yet."""

    path: Path
    text: str

    def write(self) -> str:
        """Replace the file; its path."""
        temp = self.path.with_name(f".{self.path.name}.tmp")
        temp.write_text(self.text, encoding="utf-8")
        os.replace(temp, self.path)
        return str(self.path)


def with_handle(path: Path, text: str, index: int, entry: HandleEntry) -> str:
    """The `text` of a profile whose `index`-th slot has one more handle; comments and everything else stay."""
    known, lines, slot = tables.lines(text), text.splitlines(keepends=True), ("slots", index)
    inline = known.get((*slot, "handles"))
    if slot not in known or inline:
        form = "[[slots.handles]]" if inline else "[[slots]]"
        raise ConfigError(
            f"{path}:{inline or 1}: what it has is not written as {form} tables", hint="change it by hand"
        )
    end = min((at - 1 for keys, at in known.items() if at > known[slot] and keys[:2] != slot), default=len(lines))
    while lines[end - 1].strip() == "" or lines[end - 1].lstrip().startswith("#"):
        end -= 1
    lines[end - 1] = lines[end - 1].rstrip("\n") + "\n"
    return "".join([*lines[:end], "\n", handle_toml(entry), *lines[end:]])


def edit_slot(
    config: Config, catalog: Catalog, host: str, port: int, values: Mapping[str, Value], name: str | None
) -> Edit:
    """Set `values` (None and () remove a key) in the slot of `port`, of profile `name` or the only such one."""
    found = [
        (profile, index)
        for profile in _profiles(config, catalog, name)
        for index, slot in enumerate(profile.slots)
        if slot.port == port and host in ([slot.host] if slot.host else homes(config, profile.name, name is not None))
    ]
    if not found:
        where = f"profile {name} has no" if name else "no profile has a"
        raise UsageError(f"{where} slot {port}", hint=f"llmctl profile save {name or 'NAME'}")
    if len(found) > 1:
        names = [profile.name for profile, _ in found]
        raise UsageError(f"profiles {', '.join(names)} have a slot {port}", hint=f"add --profile {names[0]}")
    profile, index = found[0]
    text = profile.path.read_text(encoding="utf-8")
    for key, value in values.items():
        text = _set(profile.path, text, ("slots", index), key, value)
    return Edit(profile.path, text)


def homes(config: Config, profile: str, named: bool = False) -> list[str]:
    """The hosts that the slots without a host of `profile` belong to: those whose entry lists it, or where no entry
    lists any profile (or, with `named`: this one) the default host."""
    listed = [host.name for host in config.hosts.values() if profile in host.profiles]
    anywhere = any(host.profiles for host in config.hosts.values())
    return listed or ([] if anywhere and not named else [config.host().name])


def _profiles(config: Config, catalog: Catalog, name: str | None) -> Iterable[Profile]:
    return [configs.profile(config, catalog, n) for n in ([name] if name else configs.profile_names(config))]


def _set(path: Path, text: str, table: tables.Keys, key: str, value: Value) -> str:
    """`text` with `key = value` in `table`; comments and everything else stay."""
    known, lines = tables.lines(text), text.splitlines(keepends=True)
    at, model = known.get((*table, key)), known.get((*table, "model"))
    if model is None:
        raise ConfigError(f"{path}: its slots are not written as [[slots]] tables", hint="change it by hand")
    if value in (None, ()):
        return "".join(lines[: at - 1] + lines[at:]) if at else text
    if at is None:
        lines[model - 1] = lines[model - 1].rstrip("\n") + "\n"
        lines.insert(model, f"{key} = {_value(value)}\n")
        return "".join(lines)
    before = re.match(r"""(\s*\w+\s*=\s*)(\[[^][]*\]|"[^"]*"|'[^']*'|[^][{}\s#]+)""", lines[at - 1])
    if not before:
        raise ConfigError(f"{path}:{at}: {key} is not written on one line", hint="change it by hand")
    lines[at - 1] = before[1] + _value(value) + lines[at - 1][before.end() :]
    return "".join(lines)
