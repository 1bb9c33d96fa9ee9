"""The events of one request on their way from the engine's frames to the protocol that waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmctl.domain import Chunk, Done, Event, Started
from llmctl.errors import LlmctlError, RequestError, from_dict

SLOW_READER = "the client reads too slowly: more than {} bytes of its answer wait"


class RequestStream:
    """One request's chunks: pushed in by the engine's frames, read in batches by a protocol (runner.service.Stream)."""

    def __init__(self, id: str, model: str, *, cancel: Callable[[str], None], limit: int) -> None:
        self.id, self.model = id, model
        self.prompt_tokens = 0
        self.ended = False
        self._cancel, self._limit = cancel, limit
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chunks: list[Chunk] = []
        self._size = 0
        self._error: LlmctlError | None = None
        self._value: Mapping[str, Any] | None = None
        self._more = asyncio.Event()

    async def accepted(self) -> None:
        """Wait until the engine has accepted the request, or raise its refusal."""
        await self._accepted

    def push(self, event: Event) -> None:
        """Take an event from the engine."""
        if self.ended:
            return
        if isinstance(event, Chunk):
            self._chunks.append(event)
            self._size += len(event.text) + len(event.reasoning) + sum(len(call.arguments) for call in event.calls)
            if event.usage:
                self.ended = True
            elif self._size > self._limit:
                self.fail(RequestError(SLOW_READER.format(self._limit), status=408, code="slow_reader"))
                self._cancel(self.id)
            self._more.set()
        elif isinstance(event, Started):
            self.prompt_tokens = event.prompt_tokens
            if not self._accepted.done():
                self._accepted.set_result(None)
        elif isinstance(event, Done):
            self._value, self.ended = event.value, True
            self._more.set()
        else:
            self.fail(from_dict(event.error))

    def fail(self, error: LlmctlError) -> None:
        """End the stream with an error, before or after it was accepted."""
        if self.ended:
            return
        self.ended, self._error = True, error
        if not self._accepted.done():
            self._accepted.set_exception(error)
            self._accepted.exception()  # read here: the waiter may be gone already
        self._more.set()

    async def value(self) -> Mapping[str, Any]:
        """What a task's Done carries, once it is there."""
        while self._value is None:
            if self._error:
                raise self._error
            if self.ended:
                raise asyncio.CancelledError
            self._more.clear()
            await self._more.wait()
        return self._value

    def cancel(self) -> None:
        """The client went away."""
        if not self.ended:
            self.ended = True
            self._more.set()
            self._cancel(self.id)

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> Sequence[Chunk]:
        while not self._chunks:
            if self._error:
                raise self._error
            if self.ended:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        chunks, self._chunks, self._size = self._chunks, [], 0
        return chunks

    async def __aenter__(self) -> RequestStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.cancel()
