"""Whether handles, profiles, slots and the files made of them say the same. Pure; what is asked of slots comes in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmctl.gateway import jsonl, naming, needs
from llmctl.gateway.derive import Problem, Rows
from llmctl.gateway.jsonl import FILE, OTHERS, SIDECAR, Line
from llmctl.gateway.registry import Handle, Registry, Replica

SYNC, FIX = "llmctl handles sync", "llmctl handles check --fix"
ELSEWHERE = ("docker", "external")
"""Managers that llmctl never writes of its own slots."""


@dataclass(frozen=True)
class Live:
    """What a slot says of itself: the names that it answers to, its context, and what its engine can; or why it says
    nothing."""

    names: tuple[str, ...] = ()
    context: int | None = None
    engine: str = ""
    capabilities: tuple[str, ...] = ()
    why: str | None = None


def handles(registry: Registry, rows: Rows, means: naming.Means = lambda name: None) -> Iterator[Problem]:
    """Each handle by itself: its name, what its technique needs, and whether its slots run what it stands for."""
    for one in registry.handles.values():
        where = f"handle {one.name}"
        yield from (Problem(where, what, "another name, or another engine") for what in naming.problems(one, means))
        for engine in dict.fromkeys(replica.engine for replica in one.replicas):
            yield from _unable(one, engine)
        for replica in one.replicas:
            if replica.host in rows and (what := _runs(replica, rows[replica.host].get(replica.port))):
                yield Problem(where, what, f"llmctl profile load {replica.profile}" if replica.profile else SYNC)


def _runs(replica: Replica, row: Mapping[str, Any] | None) -> str | None:
    """Why a slot does not run what it should."""
    model = row["model"] if row else None
    if model == replica.model or (model is None and replica.on_demand):
        return None
    return f"{replica.where} runs {model or 'nothing'}, and it stands for {replica.model}"


def _unable(one: Handle, engine: str, capabilities: tuple[str, ...] | None = None) -> Iterator[Problem]:
    if one.technique is not None:
        for what in needs.problems(one.technique, engine, capabilities):
            yield Problem(f"handle {one.name}", what, "another technique, or another engine")


# ── the files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def file(data: bytes, wanted: str, ours: bool, path: str) -> Iterator[Problem]:
    """handles.jsonl as it lies at `path`, against what would be written: by content, not by bytes. One that is not
    `ours` is somebody's own: it is only read."""
    lines, mistakes = jsonl.parse(data)
    yield from (Problem(f"{FILE}:{one.line}", one.what, FIX if ours else "mend it there") for one in mistakes)
    if not ours:
        hint = f"llmctl handles import {path}, then llmctl --yes handles export"
        yield Problem(FILE, "it was not written by llmctl, which leaves it alone", hint)
        return
    would = _by_name(jsonl.parse(wanted.encode())[0])
    yield from (Problem(FILE, what, FIX) for what in differences(_by_name(lines), would))


def lost(data: bytes, wanted: str, path: str) -> Iterator[Problem]:
    """The lines that somebody put into a generated file, of what is no slot of llmctl: writing it anew loses them."""
    known = {line.handle for line in jsonl.parse(wanted.encode())[0]}
    for line in jsonl.parse(data)[0]:
        if line.handle not in known and (line.kind != "model" or line.managed_by in ELSEWHERE):
            yield Problem(FILE, f"{line.handle} stands only here, and would be lost", f"llmctl handles import {path}")


def others(data: bytes, registry: Registry) -> Iterator[Problem]:
    """The file of the lines that stand for no slot of llmctl, which only people and an import write."""
    lines, mistakes = jsonl.parse(data)
    yield from (Problem(f"{OTHERS}:{one.line}", one.what, "mend it there") for one in mistakes)
    for line in lines:
        if line.handle in registry.handles:
            yield Problem(OTHERS, f"{line.handle} is a handle of a slot now", "take that line out")


def sidecar(data: bytes, wanted: str) -> Iterator[Problem]:
    """The sidecar, against what would be written."""
    found, would = json.loads(data), json.loads(wanted)
    yield from (Problem(SIDECAR, what, FIX) for what in differences(found.get("handles", {}), would["handles"]))
    if found.get("default") != would["default"]:
        yield Problem(SIDECAR, f"the default is {_said(found.get('default'))}, now {_said(would['default'])}", FIX)


def written(registry: Registry, gateways: Registry) -> Iterator[Problem]:
    """What the gateway goes by, against what is so now."""
    for what in differences(_facts(gateways), _facts(registry)):
        yield Problem("the gateway's registry", what, SYNC)
    if gateways.default != registry.default:
        what = f"the default is {_said(gateways.default)}, now {_said(registry.default)}"
        yield Problem("the gateway's registry", what, SYNC)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """What is to be changed in `found`, field by field of each name."""
    for name in sorted({*found, *wanted}):
        if name not in found:
            yield f"{name} is missing"
        elif name not in wanted:
            yield f"{name} is no handle any more"
        else:
            old, new = (one if isinstance(one, dict) else {} for one in (found[name], wanted[name]))
            yield from (f"{name}: {what}" for what in _changed(old, new))


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Replicas by their slots, and those that stay by their own fields."""
    before, after = _replicas(old), _replicas(new)
    fields = [({**old, "replicas": [*before]}, {**new, "replicas": [*after]}, "")]
    fields += [(before[where], after[where], f"{where}: ") for where in before if where in after]
    for had, has, where in fields:
        for key in sorted({*had, *has}):
            if had.get(key) != has.get(key):
                yield f"{where}{key} is {_said(had.get(key))}, now {_said(has.get(key))}"


def _replicas(one: Mapping[str, Any]) -> dict[str, Any]:
    found = one.get("replicas")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return {f"{row.get('host')}:{row.get('port')}": row for row in rows}


def _said(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}…"


def _by_name(lines: Iterable[Line]) -> dict[str, Any]:
    return {line.handle: asdict(line) for line in lines}


def _facts(registry: Registry) -> dict[str, Any]:
    """As JSON has them."""
    found: dict[str, Any] = json.loads(json.dumps({name: asdict(one) for name, one in registry.handles.items()}))
    return found


# ── what is asked ───────────────────────────────────────────────────────────────────────────────────────────────────


def live(registry: Registry, said: Mapping[str, Live]) -> Iterator[Problem]:
    """What slots answer, by HOST:PORT."""
    for one in registry.handles.values():
        for replica in one.replicas:
            if found := said.get(replica.where):
                yield from _answers(one, replica, found)


def listed(registry: Registry, names: Iterable[str], gateway: str) -> Iterator[Problem]:
    """The list that a gateway itself shows."""
    known = {*names}
    for name in sorted({*registry.handles} ^ known):
        what = f"it lists {name}, which is none" if name in known else f"it does not list {name}"
        yield Problem(f"the gateway {gateway}", what, SYNC)


def _answers(one: Handle, replica: Replica, found: Live) -> Iterator[Problem]:
    where, handle = replica.where, f"handle {one.name}"
    if found.why is not None:
        yield Problem(handle, f"{where} does not answer: {found.why}", f"llmctl health {where}")
        return
    if replica.model not in found.names:
        names = ", ".join(found.names) or "nothing"
        yield Problem(handle, f"{where} answers to {names}, not to {replica.model}", f"llmctl restart {where}")
    if one.context and found.context and found.context < one.context:
        yield Problem(
            handle, f"it promises {one.context:,} tokens, and {where} takes {found.context:,}",
            "a smaller context of the handle, or a larger one of the slot",
        )  # fmt: skip
    if found.engine:
        yield from _unable(one, found.engine, found.capabilities)


def data(found: Iterable[Problem]) -> list[dict[str, Any]]:
    """As JSON, each once."""
    return [asdict(problem) for problem in dict.fromkeys(found)]
