"""Chunks as OpenAI's responses: a list of items that grow one after another, whole or as typed events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmctl.domain import CANCELLED, LENGTH, TIME, CallPiece, Chunk, TokenLogprob, Usage
from llmctl.errors import LlmctlError
from llmctl.runner.exchange import status_of
from llmctl.runner.protocols.asked import Answer, Asked, new_id
from llmctl.runner.protocols.openai_answers import show_logprobs

WHY_INCOMPLETE = {LENGTH: "max_output_tokens", TIME: "max_output_tokens", CANCELLED: "cancelled"}
REASONING, MESSAGE, CALL = "reasoning", "message", "function_call"
PREFIX = {REASONING: "rs", MESSAGE: "msg", CALL: "fc"}
PART = {REASONING: "reasoning_text", MESSAGE: "output_text"}
DELTA = {
    REASONING: "response.reasoning_text",
    MESSAGE: "response.output_text",
    CALL: "response.function_call_arguments",
}
dump = json.JSONEncoder(separators=(",", ":")).encode


@dataclass
class Item:
    """One item of the output; `call` is the first piece of a function call."""

    kind: str
    index: int
    call: CallPiece = CallPiece(0)
    status: str = "in_progress"
    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id = new_id(PREFIX[self.kind])

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def place(self) -> dict[str, Any]:
        """Where an event about this item belongs."""
        at = {"item_id": self.id, "output_index": self.index}
        return at if self.kind == CALL else {**at, "content_index": 0}

    def part(self, text: str) -> dict[str, Any]:
        """The one part of its content."""
        shown: dict[str, Any] = {"type": PART[self.kind], "text": text}
        if self.kind == MESSAGE:
            shown |= {"annotations": [], "logprobs": show_logprobs(self.logprobs)}
        return shown

    def shown(self) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.id, "type": self.kind, "status": self.status}
        if self.kind == CALL:
            return {**item, "call_id": self.call.id, "name": self.call.name, "arguments": self.text}
        own: dict[str, Any] = {"role": "assistant"} if self.kind == MESSAGE else {"summary": []}
        return {**item, **own, "content": [] if self.status == "in_progress" else [self.part(self.text)]}


class ResponseAnswer(Answer):
    """/v1/responses. Whole or streamed, the chunks go through the same items."""

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._created = int(time.time())
        self._items: list[Item] = []
        self._finish: str | None = None
        self._reasoning_tokens = 0
        self._events: list[str] = []
        self._number = 0

    def add(self, chunks: Sequence[Chunk]) -> None:
        for kind, call, text, logprobs in pieces(chunks):
            self._grow(kind, call, text, logprobs)
        self._reasoning_tokens += sum(chunk.tokens for chunk in chunks if chunk.reasoning)
        self._finish = chunks[-1].finish or self._finish

    def whole(self, usage: Usage) -> dict[str, Any]:
        self._complete()
        return self._response(self._status(), usage)

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        if not self._number:
            for name in ("created", "in_progress"):
                self._emit(f"response.{name}", {"response": self._response("in_progress", None)})
        self.add(chunks)
        return self._taken()

    def end(self, usage: Usage) -> bytes:
        self._complete()
        status = self._status()
        self._emit(f"response.{status}", {"response": self._response(status, usage)})
        return self._taken()

    def failed(self, error: LlmctlError) -> bytes:
        code = "server_error" if status_of(error) >= 500 else error.code
        response = self._response("failed", None) | {"error": {"code": code, "message": error.message}}
        self._emit("response.failed", {"response": response})
        return self._taken()

    # ── items ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _grow(self, kind: str, call: CallPiece, text: str, logprobs: Sequence[TokenLogprob]) -> None:
        item = self._items[-1] if self._items else None
        if item is None or item.kind != kind or (kind == CALL and item.call.index != call.index):
            item = self._open(kind, call)
        if not text:
            return
        item.parts.append(text)
        event: dict[str, Any] = {**item.place, "delta": text}
        if kind == MESSAGE:
            item.logprobs += logprobs
            event["logprobs"] = show_logprobs(logprobs)
        self._emit(f"{DELTA[kind]}.delta", event)

    def _open(self, kind: str, call: CallPiece) -> Item:
        self._close("completed")
        item = Item(kind, len(self._items), call)
        self._items.append(item)
        self._emit("response.output_item.added", {"output_index": item.index, "item": item.shown()})
        if kind != CALL:
            self._emit("response.content_part.added", {**item.place, "part": item.part("")})
        return item

    def _close(self, status: str) -> None:
        """The item that grew will not any more."""
        if not self._items or self._items[-1].status != "in_progress":
            return
        item = self._items[-1]
        item.status = status
        if item.kind == CALL:
            done: dict[str, Any] = {"name": item.call.name, "arguments": item.text}
        else:
            done = {"text": item.text}
        if item.kind == MESSAGE:
            done["logprobs"] = show_logprobs(item.logprobs)
        self._emit(f"{DELTA[item.kind]}.done", {**item.place, **done})
        if item.kind != CALL:
            self._emit("response.content_part.done", {**item.place, "part": item.part(item.text)})
        self._emit("response.output_item.done", {"output_index": item.index, "item": item.shown()})

    def _complete(self) -> None:
        """No chunk follows; an answer of nothing at all is an empty message."""
        if not self._items:
            self._open(MESSAGE, CallPiece(0))
        self._close(self._status())

    def _status(self) -> str:
        return "incomplete" if self._finish in WHY_INCOMPLETE else "completed"

    # ── on the wire ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _emit(self, type: str, event: Mapping[str, Any]) -> None:
        if self.asked.stream:
            data = dump({"type": type, "sequence_number": self._number, **event})
            self._events.append(f"event: {type}\ndata: {data}\n\n")
            self._number += 1

    def _taken(self) -> bytes:
        found, self._events = "".join(self._events), []
        return found.encode("ascii")

    def _response(self, status: str, usage: Usage | None) -> dict[str, Any]:
        why = WHY_INCOMPLETE.get(self._finish or "") if status == "incomplete" else None
        return {
            "id": self.request.id, "object": "response", "created_at": self._created, "status": status,
            "background": False, "error": None, "incomplete_details": {"reason": why} if why else None,
            "model": self.model, "output": [item.shown() for item in self._items], "previous_response_id": None,
            "store": False, "truncation": "disabled", "usage": self._usage(usage) if usage else None,
            **self.asked.options,
        }  # fmt: skip

    def _usage(self, usage: Usage) -> dict[str, Any]:
        return {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
            "total_tokens": usage.prompt + usage.completion,
        }


Piece = tuple[str, CallPiece, str, list[TokenLogprob]]


def pieces(chunks: Sequence[Chunk]) -> Iterator[Piece]:
    """What chunks add to which kind of item, in order; what follows itself is one."""
    waiting: Piece | None = None
    for piece in (piece for chunk in chunks for piece in _of(chunk)):
        kind, call, text, logprobs = piece
        if waiting and waiting[0] == kind and (kind != CALL or waiting[1].index == call.index):
            waiting = (kind, waiting[1], waiting[2] + text, waiting[3] + logprobs)
        else:
            if waiting:
                yield waiting
            waiting = piece
    if waiting:
        yield waiting


def _of(chunk: Chunk) -> Iterator[Piece]:
    if chunk.reasoning:
        yield REASONING, CallPiece(0), chunk.reasoning, []
    if chunk.text:
        yield MESSAGE, CallPiece(0), chunk.text, list(chunk.logprobs)
    for call in chunk.calls:
        yield CALL, call, call.arguments, []
