"""A LiteLLM proxy's configuration, rendered from the registry: a pure function, the same bytes for the same registry.

Keys stand in it by their environment names only; slots that ssh alone reaches are left out, with a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from llmctl import __version__
from llmctl.gateway.registry import EMBEDDINGS, Handle, Registry, Replica

BAD = ("1.82.7", "1.82.8")
"""Releases that were published with stolen credentials: never installed, whatever asks for them."""
BEGIN, END = "# BEGIN LLMCTL AUTO", "# END LLMCTL AUTO"
TIMEOUT, SLOW = 600, 3600
"""Seconds for an answer; of handles whose technique computes many."""
STATE = ("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD")


@dataclass(frozen=True)
class Rendered:
    """The file, what it needs in the environment, and what could not be said in it."""

    text: str
    environment: str
    notes: tuple[str, ...]


def rendered(registry: Registry, *, shared: bool = False) -> Rendered:
    """`shared`: several instances keep their cooldowns and rates in one Redis."""
    entries, notes = [], []
    for _, handle in sorted(registry.handles.items()):
        for replica in handle.replicas:
            if replica.address is None:
                notes.append(f"{handle.name}: {replica.where} is reached through ssh alone, which LiteLLM cannot")
            else:
                entries.append(_entry(handle, replica))
    known = {entry["model_name"] for entry in entries}
    fallbacks = [
        {name: [other for other in one.fallbacks if other in known]}
        for name, one in sorted(registry.handles.items())
        if name in known and any(other in known for other in one.fallbacks)
    ]
    data: dict[str, Any] = {
        "model_list": entries,
        "litellm_settings": {"drop_params": False, "num_retries": 2, "request_timeout": TIMEOUT},
        "router_settings": {
            "routing_strategy": "least-busy", "allowed_fails": 2, "cooldown_time": 30, "fallbacks": fallbacks,
            **({name.lower(): f"os.environ/{name}" for name in STATE} if shared else {}),
        },
        "general_settings": {
            "master_key": "os.environ/LITELLM_MASTER_KEY", "background_health_checks": True,
            "health_check_interval": 300,
        },
    }  # fmt: skip
    head = f"# Made by llmctl {__version__} of the registry {registry.hash}: llmctl gateway render litellm\n"
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
    return Rendered(head + text, _environment(registry), tuple(notes))


def _entry(handle: Handle, replica: Replica) -> dict[str, Any]:
    slow = handle.technique is not None
    info: dict[str, Any] = {
        "id": f"{handle.name}@{replica.where}", "mode": "embedding" if handle.invoke == EMBEDDINGS else "chat",
        "max_input_tokens": handle.context, "max_output_tokens": handle.max_output,
        "input_cost_per_token": handle.price[0] / 1e6 or None, "output_cost_per_token": handle.price[1] / 1e6 or None,
        "disable_background_health_check": True if slow else None,
    }  # fmt: skip
    return {
        "model_name": handle.name,
        "litellm_params": _said({
            "model": f"openai/{replica.model}", "api_base": f"http://{replica.address}/v1",
            "api_key": f"os.environ/{variable(replica.host)}_KEY", "max_tokens": handle.max_output,
            "timeout": SLOW if slow else TIMEOUT,
        }),
        "model_info": _said(info),
    }  # fmt: skip


def variable(name: str) -> str:
    """A name as an environment variable has it: LLMCTL_GPU_1."""
    return "LLMCTL_" + re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")


def _environment(registry: Registry) -> str:
    """The block that other tools read: MLX_<HANDLE>_API_BASE and MLX_<HANDLE>_MODEL, between its marks."""
    lines = [BEGIN]
    for name, handle in sorted(registry.handles.items()):
        first = next((one for one in handle.replicas if one.address), None)
        if first and first.engine == "mlx":
            word = re.sub(r"[^A-Z0-9]+", "_", name.upper().removeprefix("MLX-"))
            lines += [f"MLX_{word}_API_BASE=http://{first.address}/v1", f"MLX_{word}_MODEL=openai/{name}"]
    return "\n".join([*lines, END]) + "\n"


def _said(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}
