"""Several prompts of one completion: their requests side by side, their chunks as one stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace

from llmctl.domain import Chunk, GenerateRequest, Usage
from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols.asked import Asked, Begin, begin
from llmctl.runner.service import Service, Stream

Item = Stream | Sequence[Chunk] | Exception


def begin_each(metrics: Metrics) -> Begin:
    """`begin` for a completion whose requests are its `options`."""

    async def start(service: Service, asked: Asked) -> Stream:
        if len(asked.options) == 1:
            return await begin(service, asked)
        service.check_model(asked.model)
        began = time.monotonic()

        def first(prompt_tokens: int) -> None:
            metrics.first_token(time.monotonic() - began, prompt_tokens)

        stream = JoinedStream(service, asked.options, first)
        try:
            await stream.accepted()
        except BaseException:
            await stream.close()
            raise
        return stream

    return start


class JoinedStream:
    """A Stream over several requests; the choices of the i-th are numbered from i times n on.

    One error ends all of them, and so does leaving it. `first` is told of each prompt but the one accepted first when
    its first token comes; that one is this stream's own `prompt_tokens`.
    """

    def __init__(self, service: Service, requests: Sequence[GenerateRequest], first: Callable[[int], None]) -> None:
        self.model, self.prompt_tokens = "", 0
        self._service, self._requests, self._first = service, requests, first
        self._left = len(requests)
        self._usage = Usage()
        self._untold: dict[int, int] = {}  # prompt tokens of requests that have no token yet
        # One place: who waits to put something there keeps to the limit of its own stream when the reader is slow.
        self._items: asyncio.Queue[tuple[int, Item]] = asyncio.Queue(1)
        self._tasks = [asyncio.ensure_future(self._follow(i)) for i in range(self._left)]

    async def _follow(self, i: int) -> None:
        try:
            async with await self._service.generate(self._requests[i]) as stream:
                await self._items.put((i, stream))
                async for chunks in stream:
                    await self._items.put((i, chunks))
        except Exception as error:  # it is raised where the stream is read
            await self._items.put((i, error))

    async def accepted(self) -> None:
        """Wait until an engine has accepted one of them."""
        _, item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        assert not isinstance(item, Sequence)
        self.model, self.prompt_tokens = item.model, item.prompt_tokens

    def __aiter__(self) -> JoinedStream:
        return self

    async def __anext__(self) -> Sequence[Chunk]:
        if not self._left:
            raise StopAsyncIteration
        while True:
            i, item = await self._items.get()
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Sequence):
                return self._numbered(i, item)
            self._untold[i] = item.prompt_tokens

    def _numbered(self, i: int, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        if i in self._untold:
            self._first(self._untold.pop(i))
        found = [replace(chunk, index=chunk.index + i * self._requests[i].n, usage=None) for chunk in chunks]
        if usage := chunks[-1].usage:
            self._left -= 1
            self._usage = Usage(*map(sum, zip(astuple(self._usage), astuple(usage), strict=True)))
            if not self._left:
                found[-1] = replace(found[-1], usage=self._usage)
        return found

    def cancel(self) -> None:
        """End all that has not ended."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """End all, and wait until they have."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> JoinedStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
