"""How a stream that has not begun is told of a load: in comments that no client shows, or as the model's thoughts."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmctl.errors import RequestError

HEADER = b"x-llmctl-progress"
COMMENTS, REASONING = "comments", "reasoning"
EVENTS = b"text/event-stream; charset=utf-8"
LINES = b"application/x-ndjson"
OLLAMA = ("/api/chat", "/api/generate")
STREAM = {**dict.fromkeys(OLLAMA, True), "/execute": True}
"""Whether a request of a route streams that does not say."""
TEXT = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/execute", *OLLAMA)
"""Routes that stream."""


@dataclass(frozen=True)
class Progress:
    """`kind` is the type of the stream, `said` what stands in it for some words."""

    kind: bytes
    said: Callable[[str], bytes]


def of(path: str, streams: bool | None, wish: bytes | None, model: str) -> Progress | None:
    """How a request is told; None where its answer comes whole. `wish` is the header HEADER, RequestError for another
    than it knows. A route that has no thoughts has comments."""
    how = (wish or COMMENTS.encode()).decode("latin-1").strip().lower()
    if how not in (COMMENTS, REASONING):
        raise RequestError(
            f"the header {HEADER.decode()} is {how[:40]!r}", param=HEADER.decode(), hint=f"{COMMENTS} or {REASONING}"
        )
    if path not in TEXT or not (STREAM.get(path, False) if streams is None else streams):
        return None
    if path in OLLAMA:
        return Progress(LINES, lambda words: _line(path, model, words if how == REASONING else ""))
    if path == "/v1/chat/completions" and how == REASONING:
        return Progress(EVENTS, lambda words: _chunk(model, words))
    return Progress(EVENTS, _comment)


def _comment(words: str) -> bytes:
    return b": %b\n\n" % words.encode()


def _chunk(model: str, words: str) -> bytes:
    """A piece of a chat completion that has only thoughts."""
    delta = {"role": "assistant", "reasoning_content": f"{words}\n"}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    said = {"id": "chatcmpl-loading", "object": "chat.completion.chunk", "created": int(time.time()), "model": model,
            "choices": [choice]}  # fmt: skip
    return b"data: %b\n\n" % json.dumps(said).encode()


def _line(path: str, model: str, words: str) -> bytes:
    """A line of Ollama's stream without text: its streams have no comments."""
    thinking = {"thinking": f"{words}\n"} if words else {}
    text = {"message": {"role": "assistant", "content": "", **thinking}}
    said = {
        "model": model, "created_at": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        **(text if path == "/api/chat" else {"response": "", **thinking}), "done": False,
    }  # fmt: skip
    return json.dumps(said).encode() + b"\n"
