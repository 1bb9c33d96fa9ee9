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
from llmctl.errors import UsageError
from llmctl.gateway.registry import EMBEDDINGS, Handle, Registry, Replica

BEGIN, END = "# BEGIN LLMCTL AUTO", "# END LLMCTL AUTO"
TIMEOUT, SLOW = 600, 3600
"""Seconds for an answer; of handles whose technique computes many."""
FAILS = 0
"""What a slot may fail without being rested: its retries are drawn among the same slots, the one that failed included.
Said of each deployment, not of the router, for then one that is alone is never rested."""
MASTER, PASSWORD = "LITELLM_MASTER_KEY", "REDIS_PASSWORD"
"""The variables with the key that its clients send, and with that of the Redis that instances share."""


@dataclass(frozen=True)
class Redis:
    """Where instances keep what they share."""

    host: str
    port: int = 6379

    @staticmethod
    def of(text: str) -> Redis:
        """From HOST, HOST:PORT or [ADDRESS]:PORT; UsageError for anything else, a URL with its password included."""
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::(\d{1,5}))?", text)
        port = int(found[2] or 6379) if found else 0
        if found is None or not 0 < port < 65536:
            said = repr(text[:80]) if "@" not in text else "that"  # it may be a URL with a password
            raise UsageError(f"{said} is no address of a Redis", hint=f"--redis HOST:6379, its password in {PASSWORD}")
        return Redis(found[1].strip("[]"), port)


@dataclass(frozen=True)
class Rendered:
    """The file, what it needs in the environment, and what could not be said in it."""

    text: str
    environment: str
    notes: tuple[str, ...]


def rendered(registry: Registry, redis: Redis | None = None) -> Rendered:
    """With `redis` several instances keep their cooldowns and rates in one place."""
    entries, notes, named = [], [], variables(registry)
    for _, handle in sorted(registry.handles.items()):
        for replica in handle.replicas:
            if replica.address is None:
                notes.append(f"{handle.name}: {replica.where} is reached through ssh alone, which LiteLLM cannot")
                continue
            if replica.on_demand:
                notes.append(f"{handle.name}: {replica.where} is loaded on demand, which LiteLLM cannot ask for")
            entries.append(_entry(handle, replica, named[replica.host]))
    known = {entry["model_name"] for entry in entries}
    fallbacks = [
        {name: [other for other in one.fallbacks if other in known]}
        for name, one in sorted(registry.handles.items())
        if name in known and any(other in known for other in one.fallbacks)
    ]
    data: dict[str, Any] = {
        "model_list": entries,
        "litellm_settings": {
            "drop_params": False, "num_retries": 2, "request_timeout": TIMEOUT, "turn_off_message_logging": True,
        },
        "router_settings": {
            "routing_strategy": "simple-shuffle", "cooldown_time": 30, "fallbacks": fallbacks,
            **({"redis_host": redis.host, "redis_port": redis.port} if redis else {}),
            **({"redis_password": f"os.environ/{PASSWORD}"} if redis else {}),
        },
        "general_settings": {
            "master_key": f"os.environ/{MASTER}", "background_health_checks": True,
            "health_check_interval": 300,
        },
    }  # fmt: skip
    head = f"# Made by llmctl {__version__} of the registry {registry.hash}: llmctl gateway render litellm\n"
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
    return Rendered(head + text, _environment(registry), tuple(notes))


def _entry(handle: Handle, replica: Replica, key: str) -> dict[str, Any]:
    slow = handle.technique is not None
    info: dict[str, Any] = {
        "id": f"{handle.name}@{replica.where}", "mode": "embedding" if handle.invoke == EMBEDDINGS else "chat",
        "max_input_tokens": handle.context, "max_output_tokens": handle.max_output,
        "input_cost_per_token": handle.price[0] / 1e6 or None, "output_cost_per_token": handle.price[1] / 1e6 or None,
        "allowed_fails": FAILS, "disable_background_health_check": True if slow or replica.on_demand else None,
    }  # fmt: skip
    return {
        "model_name": handle.name,
        "litellm_params": _said({
            "model": f"openai/{replica.model}", "api_base": f"http://{replica.address}/v1",
            "api_key": f"os.environ/{key}", "max_tokens": handle.max_output,
            "timeout": SLOW if slow else TIMEOUT,
        }),
        "model_info": _said(info),
    }  # fmt: skip


def variables(registry: Registry) -> dict[str, str]:
    """Host → the variable with the key of its slots: LLMCTL_GPU_1_KEY. No two hosts have the same one."""
    found: dict[str, str] = {}
    for host in sorted({replica.host for handle in registry.handles.values() for replica in handle.replicas}):
        word = re.sub(r"[^A-Z0-9]+", "_", host.upper()).strip("_")
        taken = set(found.values())
        names = (f"LLMCTL_{word}{suffix}_KEY" for suffix in ("", *(f"_{n}" for n in range(2, len(found) + 3))))
        found[host] = next(name for name in names if name not in taken)
    return found


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
