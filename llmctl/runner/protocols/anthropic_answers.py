"""Chunks as Anthropic answers: one message of content blocks, or the events that build it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.domain import CANCELLED, LENGTH, STOP, TIME, TOOLS, Chunk, Usage
from llmctl.errors import LlmctlError
from llmctl.runner.exchange import status_of
from llmctl.runner.protocols.asked import Answer, Asked

STOP_REASONS = {STOP: "end_turn", LENGTH: "max_tokens", TIME: "max_tokens", CANCELLED: "end_turn", TOOLS: "tool_use"}
CONTEXT_FULL = "model_context_window_exceeded"
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
"""{type of a block: the type of its deltas, and the field that holds their text}"""
dump = json.JSONEncoder(separators=(",", ":")).encode


def error_object(error: LlmctlError) -> dict[str, Any]:
    """The Anthropic error object of `error`."""
    status = status_of(error)
    kind = TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}


@dataclass(frozen=True)
class Block:
    """What one content block is; `call` is the index of a tool_use."""

    type: str
    call: int = -1
    id: str = ""
    name: str = ""

    def empty(self) -> dict[str, Any]:
        """The block as it begins."""
        if self.type == "tool_use":
            return {"type": "tool_use", "id": self.id, "name": self.name, "input": {}}
        if self.type == "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        return {"type": "text", "text": ""}

    def whole(self, text: str) -> dict[str, Any]:
        """The block with all its content; arguments of a tool_use that are no JSON object come as text."""
        if self.type != "tool_use":
            return {**self.empty(), DELTAS[self.type][1]: text}
        try:
            given = json.loads(text or "{}")
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            return {"type": "text", "text": text}
        return {**self.empty(), "input": given}


class MessageAnswer(Answer):
    """/v1/messages."""

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._blocks: list[Block] = []
        self._texts: list[list[str]] = []  # of the blocks, for `whole`
        self._opened = False
        self._finish = STOP
        self._match: str | None = None

    # ── whole ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            for block, text in _pieces(chunk):
                if self._begins(block):
                    self._texts.append([])
                self._texts[-1].append(text)
            self._note_end(chunk)

    def whole(self, usage: Usage) -> dict[str, Any]:
        content = [block.whole("".join(texts)) for block, texts in zip(self._blocks, self._texts, strict=True)]
        return {**self._message(content, usage), **self._ending(usage)}

    def _message(self, content: Sequence[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return {
            "id": self.request.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": None, "stop_sequence": None, "usage": _show_usage(usage),
        }  # fmt: skip

    def _begins(self, block: Block) -> bool:
        """Whether a piece of `block` begins a block, which is noted, or goes on with the last one."""
        if self._blocks and (self._blocks[-1].type, self._blocks[-1].call) == (block.type, block.call):
            return False
        self._blocks.append(block)
        return True

    def _note_end(self, chunk: Chunk) -> None:
        if chunk.finish:
            self._finish, self._match = chunk.finish, chunk.stop_match

    def _ending(self, usage: Usage) -> dict[str, Any]:
        reason = STOP_REASONS[self._finish]
        if self._finish == STOP and self._match is not None:
            reason = "stop_sequence"
        elif self._finish == LENGTH and usage.completion < self.asked.options:
            reason = CONTEXT_FULL
        return {"stop_reason": reason, "stop_sequence": self._match if reason == "stop_sequence" else None}

    # ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        found = []
        if not self._opened:
            self._opened = True
            found += [
                _event("message_start", message=self._message([], Usage(self.prompt_tokens))),
                _event("ping"),
            ]
        for chunk in chunks:
            for block, text in _pieces(chunk):
                found += self._piece_events(block, text)
            self._note_end(chunk)
        return "".join(found).encode()

    def _piece_events(self, block: Block, text: str) -> Iterator[str]:
        began = self._begins(block)
        index = len(self._blocks) - 1
        if began:
            if index:
                yield _event("content_block_stop", index=index - 1)
            yield _event("content_block_start", index=index, content_block=block.empty())
        if text:
            kind, field = DELTAS[block.type]
            yield _event("content_block_delta", index=index, delta={"type": kind, field: text})

    def end(self, usage: Usage) -> bytes:
        """The end of the last block, why the message ends, and the terminator."""
        found = [_event("content_block_stop", index=len(self._blocks) - 1)] if self._blocks else []
        found.append(_event("message_delta", delta=self._ending(usage), usage=_show_usage(usage)))
        found.append(_event("message_stop"))
        return "".join(found).encode()

    def failed(self, error: LlmctlError) -> bytes:
        return f"event: error\ndata: {dump(error_object(error))}\n\n".encode()


def _pieces(chunk: Chunk) -> Iterator[tuple[Block, str]]:
    """What a chunk adds to which block, in the order in which models say it."""
    if chunk.reasoning:
        yield Block("thinking"), chunk.reasoning
    if chunk.text:
        yield Block("text"), chunk.text
    for call in chunk.calls:
        yield Block("tool_use", call.index, call.id, call.name), call.arguments


def _event(type: str, **fields: Any) -> str:
    return f"event: {type}\ndata: {dump({'type': type, **fields})}\n\n"


def _show_usage(usage: Usage) -> dict[str, Any]:
    """Anthropic counts what came from a cache apart."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }
