"""Chunks as Ollama answers: one object, or one a line."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from llmctl.domain import CANCELLED, LENGTH, STOP, TIME, TOOLS, Chunk, TokenLogprob, Usage
from llmctl.errors import LlmctlError
from llmctl.runner.protocols.asked import Answer, Asked

NDJSON = b"application/x-ndjson"
DONE_REASONS = {STOP: "stop", LENGTH: "length", TIME: "length", CANCELLED: "stop", TOOLS: "stop"}
LOWEST = -9999.0  # JSON has no -Infinity
dump = json.JSONEncoder(separators=(",", ":")).encode


def error_object(error: LlmctlError) -> dict[str, Any]:
    """The Ollama error object of `error`."""
    return {"error": f"{error.message}; {error.hint}" if error.hint else error.message}


def created_at() -> str:
    """Now, as Ollama writes it."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


class OllamaAnswer(Answer):
    """What both routes share. `asked.options` is when the request came, in ns of the monotonic clock."""

    stream_type = NDJSON

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._accepted = time.monotonic_ns()
        self._first = 0  # when the first chunk came
        self._finish = STOP
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, chunks: Sequence[Chunk]) -> None:
        self._note(chunks)
        for chunk in chunks:
            self._texts.append(chunk.text)
            self._thoughts.append(chunk.reasoning)
            self._logprobs += chunk.logprobs

    def whole(self, usage: Usage) -> dict[str, Any]:
        calls, broken = self._whole_calls()
        text = "".join([*self._texts, *broken])
        return self._object(text, "".join(self._thoughts), calls, self._logprobs) | self._ending(usage)

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        self._note(chunks)
        return b"".join(
            self._line(chunk.text, chunk.reasoning, logprobs=chunk.logprobs)
            for chunk in chunks
            if chunk.text or chunk.reasoning or chunk.logprobs
        )

    def end(self, usage: Usage) -> bytes:
        """Calls are whole only now; then why it ends, and the figures."""
        calls, broken = self._whole_calls()
        before = self._line("".join(broken), calls=calls) if calls or broken else b""
        return before + _as_line(self._object("") | self._ending(usage))

    def failed(self, error: LlmctlError) -> bytes:
        return _as_line(error_object(error))

    def _note(self, chunks: Sequence[Chunk]) -> None:
        """What is the same whole and in lines: the time, the calls, and why it ends."""
        self._first = self._first or time.monotonic_ns()
        for chunk in chunks:
            self._finish = chunk.finish or self._finish
            for piece in chunk.calls:
                call = self._calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += piece.id
                call["name"] += piece.name
                call["arguments"] += piece.arguments

    def _whole_calls(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The calls, and the text of those whose arguments are no JSON object."""
        calls, broken = [], []
        for index, call in self._calls.items():
            try:
                given = json.loads(call["arguments"] or "{}")
            except (ValueError, RecursionError):
                given = None
            if isinstance(given, dict):
                function = {"index": index, "name": call["name"], "arguments": given}
                calls.append({"id": call["id"], "function": function})
            else:
                broken.append(call["arguments"])
        return calls, broken

    def _line(self, text: str, thought: str = "", **more: Any) -> bytes:
        return _as_line(self._object(text, thought, **more) | {"done": False})

    def _object(
        self,
        text: str,
        thought: str = "",
        calls: Sequence[Mapping[str, Any]] = (),
        logprobs: Sequence[TokenLogprob] = (),
    ) -> dict[str, Any]:
        """One object, without what only the last one has."""
        found = {"model": self.model, "created_at": created_at(), **self._said(text, thought, calls)}
        if logprobs:
            found["logprobs"] = [_show_logprob(one) for one in logprobs]
        return found

    def _ending(self, usage: Usage) -> dict[str, Any]:
        """Times in ns; load_duration is what came before the engine took the request: a load, its place in the line."""
        now = time.monotonic_ns()
        first = self._first or now
        return {
            "done": True,
            "done_reason": DONE_REASONS[self._finish],
            "total_duration": now - self.asked.options,
            "load_duration": self._accepted - self.asked.options,
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": first - self._accepted,
            "eval_count": usage.completion,
            "eval_duration": now - first,
        }

    @abstractmethod
    def _said(self, text: str, thought: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Text, thoughts and calls, where the route has them."""


class ChatAnswer(OllamaAnswer):
    """/api/chat."""

    def _said(self, text: str, thought: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thought:
            message["thinking"] = thought
        if calls:
            message["tool_calls"] = calls
        return {"message": message}


class GenerateAnswer(OllamaAnswer):
    """/api/generate."""

    def _said(self, text: str, thought: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"response": text, "thinking": thought} if thought else {"response": text}


def _as_line(value: Mapping[str, Any]) -> bytes:
    return dump(value).encode() + b"\n"


def _show_logprob(one: TokenLogprob) -> dict[str, Any]:
    shown = _show_token(one.text, one.logprob)
    return {**shown, "top_logprobs": [_show_token(text, logprob) for text, _, logprob in one.top]} if one.top else shown


def _show_token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, LOWEST), "bytes": list(text.encode("utf-8", "replace"))}
