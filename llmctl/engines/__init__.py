"""Engine adapters: one file each, with `check(spec)` and `load(spec, progress, emit)` (see `domain`)."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from llmctl.domain import ENGINES, Emit, Engine, EngineSpec, Progress
from llmctl.errors import UnknownName, nearest


class Adapter(Protocol):
    """What an engine's module offers."""

    def check(self, spec: EngineSpec) -> None: ...
    def load(self, spec: EngineSpec, progress: Progress, emit: Emit) -> Engine: ...


def adapter(name: str) -> Adapter:
    """The adapter of an engine, imported now: its heavy libraries wait until `check` or `load`."""
    if name not in ENGINES:
        known = nearest(name, ENGINES) or ", ".join(ENGINES)
        raise UnknownName(f"no engine {name!r}", hint=f"did you mean {known}?")
    return cast(Adapter, import_module(f"llmctl.engines.{name}"))
