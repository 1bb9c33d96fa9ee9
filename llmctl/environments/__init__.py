"""Python environments of llmctl and of its engines, from hash-locked requirements, by whichever manager a host has.

`build` and `managers` run on the host out of the uploaded wheel: standard library only. `locks` and `wheelhouse` run on
the operator's machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """An environment to be: its name (base, llamacpp, torch, mlx, convert, or an engine with a model's own pins) and
    the text of its requirements, each with its hashes. Two with the same `folder` are the same environment."""

    name: str
    requirements: str

    @property
    def folder(self) -> str:
        """Its folder's name under ~/.llmctl/envs."""
        return f"{self.name}-{hashlib.sha256(self.requirements.encode()).hexdigest()[:12]}"
