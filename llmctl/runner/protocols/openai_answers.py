"""Chunks as OpenAI answers: the whole object, or one server-sent event a chunk."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from llmctl.domain import CANCELLED, LENGTH, STOP, TIME, TOOLS, CallPiece, Chunk, TokenLogprob, Usage
from llmctl.errors import LlmctlError
from llmctl.runner.exchange import error_object
from llmctl.runner.protocols.asked import Answer, Asked

FINISH = {STOP: "stop", LENGTH: "length", TIME: "length", CANCELLED: "stop", TOOLS: "tool_calls"}
DONE = b"data: [DONE]\n\n"
MERGE = 64  # chunks that waited for a slow reader; more are sent as one event a sequence
LOWEST = -9999.0  # JSON has no -Infinity
dump = json.JSONEncoder(separators=(",", ":")).encode


class OpenAIAnswer(Answer):
    """What both routes share. What is the same in every event is made once: a chunk costs one quoted string."""

    object = chunk_object = ""

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._count = count = self._sequences()
        self._parts: list[list[str]] = [[] for _ in range(count)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]
        self._finish: list[str | None] = [None] * count
        self._common = {"id": asked.request.id, "created": int(time.time()), "model": model}
        if asked.stream:
            self._begin_events()

    def _sequences(self) -> int:
        """How many choices the answer has."""
        return self.request.n

    # ── whole ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._parts[chunk.index].append(chunk.text)
            self._logprobs[chunk.index] += chunk.logprobs
            self._finish[chunk.index] = chunk.finish or self._finish[chunk.index]

    def whole(self, usage: Usage) -> dict[str, Any]:
        choices = [
            {
                "index": i,
                **self._whole_choice(i, "".join(self._parts[i])),
                "logprobs": self._show_logprobs(i, self._logprobs[i]),
                "finish_reason": FINISH[self._finish[i] or STOP],
            }
            for i in range(self._count)
        ]
        return {**self._common, "object": self.object, "choices": choices, "usage": _show_usage(usage)}

    @abstractmethod
    def _whole_choice(self, index: int, text: str) -> dict[str, Any]:
        """What the whole `index`-th choice holds, besides its logprobs and why it ended."""

    # ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin_events(self) -> None:
        """Make the constant parts. With usage asked for, every other event says that it is not there yet."""
        fields = dump({**self._common, "object": self.chunk_object})[:-1]
        self._before = f'data: {fields},"choices":['
        self._after = '],"usage":null}\n\n' if self.asked.include_usage else "]}\n\n"
        self._usage = f'data: {fields},"choices":[],"usage":'
        text_before, text_after = dump(self._delta("\0")).split(r'"\u0000"')
        self._heads = [f'{self._before}{{"index":{i},{text_before[1:]}' for i in range(self._count)]
        self._tail = f'{text_after[:-1]},"logprobs":null,"finish_reason":null}}{self._after}'
        self._opened = [False] * self._count

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        if len(chunks) > MERGE:
            chunks = merged(chunks)
        found = []
        for chunk in chunks:
            index = chunk.index
            if not self._opened[index]:
                self._opened[index] = True
                found += self._opening(index)
            if chunk.reasoning or chunk.calls:
                found += self._beside(chunk)
            if chunk.logprobs:
                found.append(self._event(index, self._delta(chunk.text), logprobs=chunk.logprobs))
            elif chunk.text:
                found.append(self._heads[index] + quote(chunk.text) + self._tail)
            if chunk.finish:
                found.append(self._event(index, self._last_delta(), finish=FINISH[chunk.finish]))
        return "".join(found).encode("ascii")

    def end(self, usage: Usage) -> bytes:
        """The usage, for who asked for it, and the terminator."""
        if not self.asked.include_usage:
            return DONE
        return (self._usage + dump(_show_usage(usage)) + "}\n\n").encode("ascii") + DONE

    def failed(self, error: LlmctlError) -> bytes:
        return b"data: %b\n\n%b" % (dump(error_object(error)).encode(), DONE)

    def _event(
        self, index: int, delta: dict[str, Any], *, logprobs: Sequence[TokenLogprob] = (), finish: str | None = None
    ) -> str:
        shown = self._show_logprobs(index, logprobs) if logprobs else None
        choice = {"index": index, **delta, "logprobs": shown, "finish_reason": finish}
        return self._before + dump(choice) + self._after

    def _opening(self, index: int) -> list[str]:
        return []

    def _beside(self, chunk: Chunk) -> list[str]:
        """The events of what a chunk says besides its text."""
        return []

    @abstractmethod
    def _delta(self, text: str) -> dict[str, Any]:
        """What an event's choice holds."""

    def _last_delta(self) -> dict[str, Any]:
        return self._delta("")

    @abstractmethod
    def _show_logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """Logprobs in the protocol's shape; None when they were not asked for."""


class ChatAnswer(OpenAIAnswer):
    """/v1/chat/completions."""

    object, chunk_object = "chat.completion", "chat.completion.chunk"

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._reasoning: list[list[str]] = [[] for _ in range(self._count)]
        self._calls: list[list[CallPiece]] = [[] for _ in range(self._count)]

    def add(self, chunks: Sequence[Chunk]) -> None:
        super().add(chunks)
        for chunk in chunks:
            if chunk.reasoning:
                self._reasoning[chunk.index].append(chunk.reasoning)
            self._calls[chunk.index] += chunk.calls

    def _whole_choice(self, index: int, text: str) -> dict[str, Any]:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in whole_calls(self._calls[index])
        ]
        message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text}
        message["refusal"] = None
        if self._reasoning[index]:
            message["reasoning_content"] = "".join(self._reasoning[index])
        if calls:
            message["tool_calls"] = calls
        return {"message": message}

    def _opening(self, index: int) -> list[str]:
        return [self._event(index, {"delta": {"role": "assistant", "content": ""}})]

    def _beside(self, chunk: Chunk) -> list[str]:
        deltas: list[dict[str, Any]] = [{"reasoning_content": chunk.reasoning}] if chunk.reasoning else []
        deltas += [{"tool_calls": [_show_piece(piece)]} for piece in chunk.calls]
        return [self._event(chunk.index, {"delta": delta}) for delta in deltas]

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}}

    def _last_delta(self) -> dict[str, Any]:
        return {"delta": {}}

    def _show_logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self.request.logprobs is None:
            return None
        return {"content": show_logprobs(logprobs), "refusal": None}


def merged(chunks: Sequence[Chunk]) -> list[Chunk]:
    """One chunk for each sequence: what its chunks say together."""
    by_index: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_index.setdefault(chunk.index, []).append(chunk)
    return [
        Chunk(
            mine[0].id,
            index,
            "".join(chunk.text for chunk in mine),
            finish=mine[-1].finish,
            logprobs=tuple(one for chunk in mine for one in chunk.logprobs),
            reasoning="".join(chunk.reasoning for chunk in mine),
            calls=tuple(whole_calls([piece for chunk in mine for piece in chunk.calls])),
        )
        for index, mine in by_index.items()
    ]


def whole_calls(pieces: Sequence[CallPiece]) -> list[CallPiece]:
    """One piece for each call: what its pieces say together, in the order in which the calls began."""
    by_index: dict[int, list[CallPiece]] = {}
    for piece in pieces:
        by_index.setdefault(piece.index, []).append(piece)
    return [
        CallPiece(
            index,
            next((piece.id for piece in mine if piece.id), ""),
            next((piece.name for piece in mine if piece.name), ""),
            "".join(piece.arguments for piece in mine),
        )
        for index, mine in by_index.items()
    ]


def _show_piece(piece: CallPiece) -> dict[str, Any]:
    """A call's first piece has its id and its name."""
    if not piece.id:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def show_logprobs(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their alternatives, as chats and responses have them."""
    return [
        {
            **_show_token(one.text, one.logprob),
            "top_logprobs": [_show_token(text, logprob) for text, _, logprob in one.top],
        }
        for one in logprobs
    ]


def _show_token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, LOWEST), "bytes": list(text.encode("utf-8", "replace"))}


def _show_usage(usage: Usage) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }
    if usage.drafted:  # the fields of OpenAI's predicted outputs
        agreed, wrong = usage.agreed, usage.drafted - usage.agreed
        shown["completion_tokens_details"] = {
            "accepted_prediction_tokens": agreed, "rejected_prediction_tokens": wrong,
        }  # fmt: skip
    return shown
