"""What a protocol module sees of its slot: ask whether a model name is served here, and generate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from llmctl.domain import Chunk, GenerateRequest, Identity, Limits, MediaPolicy, Task


class Stream(Protocol):
    """The events of one accepted request. Iterating yields batches of chunks, coalesced when the reader is slow.

    Ends after the last chunk's `usage`. Raises RequestError when the engine fails in between. `cancel` is idempotent
    and must be called when the client goes away; leaving `async with` does it.
    """

    model: str
    prompt_tokens: int

    def __aiter__(self) -> AsyncIterator[Sequence[Chunk]]: ...
    def cancel(self) -> None: ...
    async def __aenter__(self) -> Stream: ...
    async def __aexit__(self, *exc: object) -> None: ...


class Service(Protocol):
    """One slot, as the HTTP side sees it."""

    limits: Limits
    media: MediaPolicy

    def check_model(self, name: str | None) -> None:
        """RequestError 404 `model_not_found` unless this slot answers to `name`; None and "" are its own model."""

    def identity(self) -> Identity | None:
        """The engine's identity, None while no engine is loaded."""

    def served_names(self) -> Sequence[str]:
        """The current model id first, then its aliases and handles."""

    def health(self) -> Mapping[str, Any]:
        """{"verdict": ok|degraded|down, "state", "model", "ready", "wedged", ...}; never waits, never wakes."""

    def figures(self) -> Mapping[str, int | None]:
        """What only a scrape asks: `queue_limit`, the engine's `resident` bytes and the tokens `held` in its cache
        (None: it does not tell)."""

    async def generate(self, request: GenerateRequest) -> Stream:
        """Queue, wait for an engine, hand over, and return once the engine accepted the request.

        RequestError: 400 (this model cannot take it), 429 (queue full; details["retry_after"]), 503 (no engine in
        time; details state, progress, retry_after), 500 (the engine failed).
        """

    async def ask(self, task: Task) -> Mapping[str, Any]:
        """Queue and wait like `generate`; the value of the task's Done. The same errors."""
