"""What a registry.json holds: its models by slug, its lanes by port."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = 2
FORMATS = ("mlx", "gguf")
HEALTH = ("down", "starting", "serving")
RECONCILIATION = ("converged", "transitioning", "failed")
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
LONGEST_NAME = 128


@dataclass(frozen=True)
class Finding:
    """Something wrong at the JSON pointer `where`. `refused`: an import does nothing until it is mended."""

    where: str
    line: int
    message: str
    hint: str | None = None
    refused: bool = True


@dataclass(frozen=True)
class Entry:
    """One model in one format and quantization, named `slug`; `others` are its keys that llmctl has no place for."""

    slug: str
    repo_id: str | None
    model_id: str
    cache_path: str | None
    format: str
    port: int | None = None
    context_length: int | None = None
    max_output_tokens: int | None = None
    chat_template: str | None = None
    chat_template_args: Mapping[str, Any] = field(default_factory=dict)
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    served_model_name: str | None = None
    startup_timeout_seconds: float | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """A model that a lane should serve, serves, or served well."""

    target_slug: str
    repo_id: str | None = None
    expected_served_model_identity: str | None = None


@dataclass(frozen=True)
class Lane:
    """A port and its three targets."""

    port: int
    desired_target: Target | None = None
    actual_serving_target: Target | None = None
    last_known_good_target: Target | None = None
    actual_served_model_identity: str | None = None
    health_state: str = "down"
    reconciliation_state: str = "converged"
    last_failure: Mapping[str, Any] | None = None
    last_transition_time: str | None = None


@dataclass(frozen=True)
class Registry:
    """A whole file. One of version 1 has no lanes of its own: each model's port stands for all three targets."""

    models: Mapping[str, Entry] = field(default_factory=dict)
    lanes: Mapping[int, Lane] = field(default_factory=dict)
    version: int = VERSION


def is_name(text: str) -> bool:
    """Whether a name is safe to show, to send and to keep: printable, not too long, no path out of its place."""
    return bool(text.strip()) and text.isprintable() and len(text) <= LONGEST_NAME and ".." not in text
