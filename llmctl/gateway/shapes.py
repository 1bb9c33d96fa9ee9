"""What differs between the protocols that pass through: how an error looks, and how a stream that broke ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmctl.errors import LlmctlError, RequestError
from llmctl.runner import exchange
from llmctl.runner.protocols import anthropic_answers, execute_answers, ollama_answers

DIED = "engine_died"


@dataclass(frozen=True)
class Shape:
    """One protocol. `error` is an error as a whole answer; `broken` what a stream that broke still says, from the same
    object: an event of its own, and the terminator. `gap` stands between two events."""

    error: Callable[[LlmctlError], Mapping[str, Any]]
    event: Callable[[Mapping[str, Any]], bytes]
    gap: bytes = b"\n\n"

    def broken(self, last: bytes, error: RequestError) -> bytes:
        """What ends a stream whose last bytes, whole lines, were `last`."""
        begins = not last or last.endswith(self.gap)
        return (b"" if begins else b"\n") + self.event(self.error(error))


def _data(said: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(said).encode()


OPENAI = Shape(exchange.error_object, lambda said: _data(said) + b"data: [DONE]\n\n")
ANTHROPIC = Shape(anthropic_answers.error_object, lambda said: b"event: error\n" + _data(said))
RESPONSES = Shape(
    exchange.error_object,
    lambda said: b"event: error\n" + _data({**said["error"], "type": "error", "sequence_number": 0, **said}),
)  # fmt: skip
OLLAMA = Shape(ollama_answers.error_object, lambda said: json.dumps(said).encode() + b"\n", gap=b"\n")
EXECUTE = Shape(
    execute_answers.shown,
    lambda said: _data({"type": "error", "code": "INFERENCE_FAILED", "message": said.get("message")}),
)

PASSED: Mapping[str, Shape] = {
    **dict.fromkeys(
        ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v1/systemone", "/tokenize",
         "/detokenize"), OPENAI,
    ),
    "/v1/responses": RESPONSES,
    **dict.fromkeys(("/v1/messages", "/v1/messages/count_tokens"), ANTHROPIC),
    **dict.fromkeys(("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"), OLLAMA),
    **dict.fromkeys(("/execute", "/v1/jobs"), EXECUTE),
}  # fmt: skip
"""Paths of requests that a slot answers."""
FREE = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens", "/api/show"})
"""Those of them for which no model works."""
SHORT = frozenset({"/v1/embeddings", "/v1/rerank", "/v1/systemone", "/api/embed", "/api/embeddings"})
"""Those for which it reads, and writes nothing."""


def of(path: str) -> Shape:
    """The protocol of any path: how an error on it looks."""
    if found := PASSED.get(path):
        return found
    return OLLAMA if path.startswith("/api/") else EXECUTE if path.startswith("/v1/jobs/") else OPENAI
