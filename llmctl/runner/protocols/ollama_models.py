"""What Ollama's clients are told about the models: the list, one model's card, and what is in memory."""

from __future__ import annotations

from typing import Any

from llmctl.domain import EMBED, IMAGE, Identity
from llmctl.runner.service import Service

NEVER = "2318-01-01T00:00:00Z"  # when a model goes: Ollama's own answer, nearly, to a keep_alive of -1
CAPABILITIES = {"tools": "tools", "reasoning": "thinking", "suffix": "insert", EMBED: "embedding"}
"""{an engine's word: Ollama's}"""


def listed(service: Service, since: str) -> dict[str, Any]:
    """/api/tags: the names this slot answers to."""
    identity = service.identity()
    return {"models": [_entry(name, identity) | {"modified_at": since} for name in service.served_names()]}


def running(service: Service) -> dict[str, Any]:
    """/api/ps: the model that is in memory."""
    identity = service.identity()
    if identity is None:
        return {"models": []}
    on_device = identity.memory_bytes if identity.device != "cpu" else 0
    row = {"expires_at": NEVER, "size_vram": on_device, "context_length": identity.context}
    return {"models": [_entry(service.served_names()[0], identity) | row]}


def shown(service: Service, since: str) -> dict[str, Any]:
    """/api/show: one model's card; of a model that sleeps only the name is known."""
    identity = service.identity()
    info: dict[str, Any] = {}
    if identity:
        family = identity.architecture
        info = {"general.architecture": family, f"{family}.context_length": identity.context}
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(identity),
        "model_info": info,
        "capabilities": _capabilities(identity),
        "modified_at": since,
    }


def _capabilities(identity: Identity | None) -> list[str]:
    if identity is None:
        return ["completion"]
    found = ["completion"] if identity.outputs else []
    found += [word for own, word in CAPABILITIES.items() if own in identity.capabilities]
    return [*found, "vision"] if IMAGE in identity.inputs else found


def _entry(name: str, identity: Identity | None) -> dict[str, Any]:
    size = identity.memory_bytes if identity else 0
    return {"name": name, "model": name, "size": size, "digest": "", "details": _details(identity)}


def _details(identity: Identity | None) -> dict[str, Any]:
    family = identity.architecture if identity else ""
    return {
        "parent_model": "",
        "format": "gguf" if identity and identity.engine == "llamacpp" else "safetensors",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": "",
        "quantization_level": identity.dtype if identity else "",
    }
