"""Engine adapters: one file each, with `check(spec)` and `load(spec, progress, emit)` (see `domain`)."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from llmctl.domain import ENGINES, Emit, Engine, EngineSpec, Progress
from llmctl.errors import UnknownName, Unsupported, nearest

LIBRARIES = {"torch": ("torch", "transformers"), "mlx": ("mlx", "mlx_lm"), "openvino": ("openvino",)}
"""What an engine cannot begin without; llamacpp looks for its library, of which there can be two, itself."""


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


def installed(name: str) -> None:
    """Unsupported, with what to type, when a library that this engine needs is not in this environment."""
    absent = [library for library in LIBRARIES.get(name, ()) if find_spec(library) is None]
    if absent:
        raise Unsupported(
            f"the {name} engine needs {' and '.join(absent)}, which this environment does not have",
            hint=f"pip install 'llmctl-fleet[{name}]'",
        )
