"""Tasks: what an engine answers without generating text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.domain import DETOKENIZE, TOKENIZE, StepEngine, Task, Tokenizer
from llmctl.errors import RequestError


def answer(task: Task, engine: StepEngine) -> Mapping[str, Any]:
    """The value of the task's Done; RequestError for what this model cannot, by the verb's name."""
    given = task.arguments
    if task.verb == TOKENIZE:
        return {"ids": _ids(given, engine.tokenizer)}
    if task.verb == DETOKENIZE:
        return {"text": engine.tokenizer.decode(given["ids"])}
    if task.verb not in engine.identity.capabilities:
        raise RequestError(
            f"{engine.identity.model} on {engine.identity.engine} cannot {task.verb}", code="unsupported_task"
        )
    value: Mapping[str, Any] = getattr(engine, task.verb)(**given)
    return value


def _ids(given: Mapping[str, Any], tokenizer: Tokenizer) -> list[int]:
    if "messages" in given:
        return tokenizer.chat(given["messages"], tools=given.get("tools") or ())
    return tokenizer.encode(given["text"], special=given.get("special", True))
