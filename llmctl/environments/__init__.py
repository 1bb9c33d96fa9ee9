"""Python environments of llmctl and of its engines, from hash-locked requirements, by whichever manager a host has.

`build`, `managers` and `installed` run on the host, `build` and `managers` out of the uploaded wheel: standard library
only. `wheel`, `locks` and `wheelhouse` run on the operator's machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

BASE = "base"
"""The environment of the CLI and the slot server, and of the engines that need no library."""

WITHOUT = ("scripted", "upstream")
"""Engines that run in the base environment."""

PROOFS = {
    BASE: ("typer", "uvicorn", "huggingface_hub"),
    "llamacpp": ("xllamacpp",),
    "torch": ("torch", "transformers"),
    "mlx": ("mlx_lm",),
    "openvino": ("openvino_genai", "xllamacpp"),
    "litellm": ("fastapi", "redis", "orjson"),
}
"""What must import before an environment counts as made: wheels may need libraries of the system that are not there."""


@dataclass(frozen=True)
class Wanted:
    """An environment to be: its name (base, convert, an engine, or `stack` of an engine and a model's own pins) and
    the text of its requirements, each with its hashes. Two with the same `folder` are the same environment."""

    name: str
    requirements: str

    @property
    def folder(self) -> str:
        """Its folder's name under ~/.llmctl/envs."""
        return f"{self.name}-{hashlib.sha256(self.requirements.encode()).hexdigest()[:12]}"

    @property
    def proof(self) -> tuple[str, ...]:
        """The modules that must import; a stack's are its engine's."""
        return PROOFS.get(self.name.split("-")[0], ())


def stack(engine: str, pins: Mapping[str, str]) -> str:
    """The name of an engine's environment with a model's own pins: torch-transformers-4.57.1; `x` stands for `*`."""
    return "-".join([engine, *(f"{name}-{pin.replace('*', 'x')}" for name, pin in sorted(pins.items()))])
