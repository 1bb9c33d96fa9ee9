"""What a deploy brings to one host: backend, engines, service, Python, environments and where their packages come from,
each with the reason; decided from facts before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmctl.catalog import Catalog, Model
from llmctl.config import Config, Host, ProfileSlot
from llmctl.environments import Wanted, locks, managers
from llmctl.errors import LlmctlError
from llmctl.fleet.deploy import config as deploy_config
from llmctl.fleet.facts import Facts, Python, choices
from llmctl.fleet.facts.choices import Chosen
from llmctl.models.choice import choose_engine

CONVERT = "convert"
"""Not an engine, but an environment that a host may have: for conversions."""


@dataclass(frozen=True)
class Order:
    """What was typed. `engines` None: as hosts.toml says; `wheelhouse` is a folder of wheels that was brought along."""

    engines: tuple[str, ...] | None = None
    system: bool = False
    environment: str | None = None
    offline: bool = False
    wheelhouse: Path | None = None


@dataclass(frozen=True)
class Choice:
    """`online`: packages come from the index. `wanted` is the host side's `activation.Wanted` without its release."""

    backend: Chosen
    engines: tuple[Chosen, ...]
    service: Chosen
    manager: Chosen
    source: Chosen
    python: Python
    tool: str | None
    environments: tuple[Wanted, ...]
    config: Mapping[str, str]

    @property
    def online(self) -> bool:
        return self.source.value == "index"

    def wanted(self, release: str) -> dict[str, Any]:
        """What the host is to have in use."""
        return {
            "release": release,
            "environments": {each.name: each.folder for each in self.environments},
            "config": dict(self.config),
            "service": self.service.value,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Each decision with its reason, as people and programs read it."""
        said = [("backend", self.backend), *(("engine", engine) for engine in self.engines), ("service", self.service)]
        said += [("environments", self.manager), ("packages", self.source)]
        python = f"{'.'.join(map(str, self.python.version))} ({self.python.path})"
        rows = [{"what": what, "taken": c.value, "why": c.why, "why_not": dict(c.why_not)} for what, c in said]
        return [*rows, {"what": "python", "taken": python, "why": "the one that llmctl runs best on", "why_not": {}}]


def choose(
    host: Host, facts: Facts, order: Order, config: Config, catalog: Catalog, slots: Sequence[ProfileSlot]
) -> Choice:
    """All decisions; the typed error of the first that cannot be taken."""
    asked = order.engines if order.engines is not None else host.engines
    listed = None if asked is None else tuple(name for name in asked if name != CONVERT)
    host = replace(host, engines=listed, environment=order.environment or host.environment)
    backend = choices.backend(host, facts)
    engines = choices.engines(host, backend.value, facts)
    names = [engine.value for engine in engines]
    service = choices.service(host, facts, order.system)
    python, tools = choices.python(facts), dict(facts.tools)
    manager, why = managers.choose(host.environment, tools)
    source = packages(order, facts)
    with_convert = [*names, *([CONVERT] if CONVERT in (asked or ()) else [])]
    return Choice(
        backend=backend, engines=engines, service=service, manager=Chosen(manager, why), source=source, python=python,
        tool=tools.get(manager),
        environments=tuple(locks.wanted(with_convert, facts, list(stacks(backend.value, names, catalog, slots)))),
        config=deploy_config.texts(host, backend.value, names, service.value, config.dir, catalog),
    )  # fmt: skip


def packages(order: Order, facts: Facts) -> Chosen:
    """Where a host's packages come from: "index", or "wheelhouse"."""
    if order.wheelhouse:
        return Chosen("wheelhouse", f"--wheelhouse {order.wheelhouse}")
    if order.offline:
        return Chosen("wheelhouse", "--offline")
    if facts.index:
        return Chosen("index", "the host reaches the package index")
    return Chosen("wheelhouse", "the host does not reach the package index: packages are sent from here")


def stacks(
    backend: str, engines: Sequence[str], catalog: Catalog, slots: Sequence[ProfileSlot]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The engine and the pins of each slot whose model needs an environment of its own."""
    for slot in slots:
        model = catalog.models[slot.model]
        if model.env:
            engine = slot.engine if slot.engine != "auto" else _engine(backend, model)
            if engine and engine in engines:
                yield engine, model.env


def _engine(backend: str, model: Model) -> str | None:
    """The engine that would run it in one of the formats it is there in."""
    try:
        return choose_engine(backend, {artifact.format for artifact in model.artifacts}).engine
    except LlmctlError:
        return None
