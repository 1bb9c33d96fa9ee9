"""Whether handles, profiles, slots and the files made of them say the same. Pure; what is asked of slots comes in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmctl.gateway import jsonl, naming
from llmctl.gateway.derive import Problem, Rows
from llmctl.gateway.registry import Handle, Registry

SYNC, FIX = "llmctl handles sync", "llmctl handles check --fix"


@dataclass(frozen=True)
class Live:
    """What a slot says of itself: the names that it answers to, and its context."""

    names: tuple[str, ...] = ()
    context: int | None = None


def handles(registry: Registry, rows: Rows) -> Iterator[Problem]:
    """Each handle by itself: its name, and whether its slots run what it stands for."""
    for one in registry.handles.values():
        where = f"handle {one.name}"
        yield from (Problem(where, what, "another name, or another engine") for what in naming.problems(one))
        for replica in one.replicas:
            row = rows.get(replica.host, {}).get(replica.port)
            if row is None or replica.on_demand or replica.host not in rows:
                continue
            if row["model"] != replica.model:
                runs = row["model"] or "nothing"
                yield Problem(where, f"{replica.where} runs {runs}, and it stands for {replica.model}", "llmctl apply")


def file(registry: Registry, text: str | None, services: Mapping[str, str]) -> Iterator[Problem]:
    """A handles.jsonl as it lies there (None: it does not), against what would be written: by content, not by bytes."""
    if text is None:
        return
    lines, mistakes = jsonl.parse(text)
    yield from (Problem(str(mistake).rpartition(": ")[0] or jsonl.FILE, mistake.what, FIX) for mistake in mistakes)
    wanted = {line.handle: line for line in jsonl.parse(jsonl.export(registry, services))[0]}
    found = {line.handle: line for line in lines}
    for name, line in wanted.items():
        if name not in found:
            yield Problem(jsonl.FILE, f"{name} is missing", FIX)
        elif found[name] != line:
            keys = [key for key, value in asdict(line).items() if asdict(found[name])[key] != value]
            yield Problem(jsonl.FILE, f"{name} differs in {', '.join(keys)}", FIX)
    for name, line in found.items():
        if name not in wanted and line.kind == "model" and line.managed_by != "external":
            yield Problem(jsonl.FILE, f"{name} is no handle any more", FIX)


def sidecar(registry: Registry, text: str | None) -> Iterator[Problem]:
    """The same of the sidecar."""
    if text is None:
        return
    try:
        found = json.loads(text)
    except ValueError as error:
        yield Problem(jsonl.SIDECAR, f"it is no JSON: {error}", FIX)
        return
    if found != json.loads(jsonl.sidecar(registry)):
        yield Problem(jsonl.SIDECAR, "it is not what would be written", FIX)


def written(registry: Registry, gateways: Registry) -> Iterator[Problem]:
    """What the gateway goes by, against what is so now."""
    for name in registry.handles:
        if name not in gateways.handles:
            yield Problem("the gateway", f"it does not know {name}", SYNC)
        elif gateways.handles[name] != registry.handles[name]:
            yield Problem("the gateway", f"what it knows of {name} is old", SYNC)
    for name in gateways.handles:
        if name not in registry.handles:
            yield Problem("the gateway", f"it still has {name}", SYNC)


def live(registry: Registry, said: Mapping[str, Live], listed: Iterable[str] | None) -> Iterator[Problem]:
    """What slots and the gateway answer: `said` by HOST:PORT, `listed` the gateway's own list (None: it is down)."""
    for one in registry.handles.values():
        for replica in one.replicas:
            if found := said.get(replica.where):
                yield from _answers(one, replica.where, replica.model, found)
    if listed is not None:
        for name in sorted({*registry.handles} ^ {*listed}):
            what = f"it lists {name}, which is none" if name not in registry.handles else f"it does not list {name}"
            yield Problem("the gateway", what, SYNC)


def _answers(one: Handle, where: str, model: str, found: Live) -> Iterator[Problem]:
    if model not in found.names:
        names = ", ".join(found.names) or "nothing"
        yield Problem(f"handle {one.name}", f"{where} answers to {names}, not to {model}", f"llmctl restart {where}")
    if one.context and found.context and found.context < one.context:
        yield Problem(
            f"handle {one.name}", f"it promises {one.context:,} tokens, and {where} takes {found.context:,}",
            "a smaller context of the handle, or a larger one of the slot",
        )  # fmt: skip


def data(found: Iterable[Problem]) -> list[dict[str, Any]]:
    """As JSON, each once."""
    return [asdict(problem) for problem in dict.fromkeys(found)]
