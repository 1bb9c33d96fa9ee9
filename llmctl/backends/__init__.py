"""The compute of a host: which there is, how much memory it has left, and the environment its engines run in.

A backend is one module with NAME, detect(), memory() and environment(); adding one is adding a file and its name here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from llmctl.errors import UnknownName, nearest

BACKENDS = ("metal", "cuda", "cpu")  # in the order `detect` asks them; the last is always there


@dataclass(frozen=True)
class Memory:
    """Bytes an engine on this backend can use: `total` at best, `free` now (measured)."""

    total: int
    free: int


class Backend(Protocol):
    """What the modules of this package offer."""

    NAME: str

    def detect(self) -> bool:
        """Whether this host has it."""

    def memory(self) -> Memory:
        """Measured now; Unsupported when it cannot be measured."""

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The complete environment of an engine process, made from `base`."""


def get(name: str) -> Backend:
    """The backend of that name; UnknownName lists the nearest."""
    if name not in BACKENDS:
        raise UnknownName(
            f"no backend {name!r}; there are {', '.join(BACKENDS)}",
            hint=f"did you mean {near}?" if (near := nearest(name, BACKENDS)) else None,
        )
    return cast(Backend, import_module(f"llmctl.backends.{name}"))


def detect() -> str:
    """The name of this host's backend: the first of BACKENDS that is there."""
    return next(name for name in BACKENDS if get(name).detect())
