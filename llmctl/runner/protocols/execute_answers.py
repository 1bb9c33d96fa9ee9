"""Chunks as the events of a worker of rbee, and errors in its words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from llmctl.domain import CANCELLED, LENGTH, STOP, TIME, TOOLS, Chunk, Usage
from llmctl.errors import LlmctlError, RequestError
from llmctl.runner.exchange import status_of
from llmctl.runner.protocols.asked import Asked, Events
from llmctl.runner.protocols.conversation import event

STOP_REASONS = {STOP: "EOS", TOOLS: "EOS", LENGTH: "MAX_TOKENS", CANCELLED: "CANCELLED"}
BUSY = 429  # rbee knows no such status: to its clients a full queue is a worker that cannot work now


class ExecuteEvents(Events):
    """started, token…, metrics, and end or error. `asked.options` is the Job."""

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._began = time.monotonic()
        self._sent = 0  # tokens
        self._opened = False
        self._last = Chunk(asked.request.id)

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        said = [one.text for one in chunks if one.text]
        self._last = chunks[-1]
        if not said and not self._opened and self._last.finish == TIME:
            raise self._late()
        found = [] if self._opened else [event(self._started())]
        self._opened = True
        found += [event({"type": "token", "t": text, "i": self._sent + i}) for i, text in enumerate(said)]
        self._sent += len(said)
        return b"".join(found)

    def _started(self) -> dict[str, Any]:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"type": "started", "job_id": self.asked.options.id, "model": self.model, "started_at": now}

    def end(self, usage: Usage) -> bytes:
        """RequestError 408 when there was no time for more."""
        if self._last.finish == TIME:
            raise self._late()
        seconds, matched = time.monotonic() - self._began, self._last.stop_match
        end: dict[str, Any] = {
            "type": "end",
            "tokens_out": usage.completion,
            "decode_time_ms": round(1000 * seconds),
            "stop_reason": "STOP_SEQUENCE" if matched else STOP_REASONS.get(self._last.finish or STOP, "ERROR"),
        }
        if matched:
            end["stop_sequence_matched"] = matched
        speed = round(usage.completion / max(seconds, 1e-3), 2)
        metrics = {"type": "metrics", "tokens_per_sec": speed, "vram_bytes": self.asked.options.vram_bytes}
        return event(metrics) + event(end)

    def failed(self, error: LlmctlError) -> bytes:
        return event({"type": "error", "code": _event_code(error), "message": error.message})

    def _late(self) -> RequestError:
        return RequestError(f"not done within {self.request.time_cap:g} s", status=408, code="timeout")


def _event_code(error: LlmctlError) -> str:
    if error.code == "out_of_memory":
        return "VRAM_OOM"
    if error.code in ("slow_reader", "cut"):
        return "CANCELLED"
    status = status_of(error)
    return "TIMEOUT" if status == 408 else "INVALID_REQUEST" if status < 500 else "INFERENCE_FAILED"


def shown(error: LlmctlError) -> Mapping[str, Any]:
    """An error as the body of an answer: the errors of the fields, or {code, message, retriable}."""
    if "errors" in error.details:
        return {"errors": error.details["errors"]}
    status = status_of(error)
    if status in (BUSY, 503):
        code, retriable = "WORKER_UNHEALTHY", True
    elif status in (408, 504):
        code, retriable = "INFERENCE_TIMEOUT", True
    elif status < 500:
        code, retriable = "INVALID_REQUEST", False
    else:
        code = "CUDA_ERROR" if error.code == "out_of_memory" else "INTERNAL"
        retriable = error.code == "engine_died"
    return {"code": code, "message": error.message, "retriable": retriable}


def in_its_words(error: RequestError) -> RequestError:
    """`error` with a status that a client of rbee knows."""
    if error.status != BUSY:
        return error
    return RequestError(error.message, status=503, code=error.code, details=error.details)
