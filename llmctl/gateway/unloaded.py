"""What Ollama's clients are told without a model being loaded for it: its card, and that it goes."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

from llmctl.gateway.asked import Asked
from llmctl.gateway.registry import Handle
from llmctl.runner.protocols.ollama_fields import is_empty

SHOW = "/api/show"
EMPTY: Mapping[str, Mapping[str, Any]] = {
    "/api/chat": {"message": {"role": "assistant", "content": ""}},
    "/api/generate": {"response": ""},
}
"""What stands in an answer without text."""
SMALL = 4096
"""Bytes that a body without text does not exceed."""


def card(handle: Handle) -> dict[str, Any]:
    """/api/show of a handle whose model is not loaded: what its profile says of it."""
    info = {"general.architecture": "", ".context_length": handle.context} if handle.context else {}
    return {
        "modelfile": "", "parameters": "", "template": "", "details": {"family": "", "families": [], "format": ""},
        "model_info": info, "capabilities": ["completion"],
    }  # fmt: skip


def goes(path: str, asked: Asked | None, keep: float | None) -> bool:
    """Whether a request is Ollama's way to unload a model: no text, and a keep_alive of 0."""
    if path not in EMPTY or keep != 0 or asked is None or len(asked.text) > SMALL:
        return False
    return is_empty(json.loads(asked.text))


def gone(path: str, model: str) -> dict[str, Any]:
    """The answer to that."""
    created = datetime.datetime.now(datetime.timezone.utc).isoformat()
    return {"model": model, "created_at": created, **EMPTY[path], "done": True, "done_reason": "unload"}
