"""A request as a protocol has read it, and its way through the slot: the same for every protocol."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmctl.domain import Chunk, GenerateRequest, Usage
from llmctl.errors import LlmctlError, RequestError
from llmctl.runner import json_in
from llmctl.runner.exchange import EVENTS, Exchange
from llmctl.runner.media.gather import gathered
from llmctl.runner.media.source import Source
from llmctl.runner.metrics import Meter, Metrics
from llmctl.runner.service import Service, Stream

Handler = Callable[[Exchange], Awaitable[None]]
Routes = dict[str, dict[str, Handler]]
"""{path: {method: handler}}; a path that ends in a slash takes what follows as `exchange.rest`."""


@dataclass(frozen=True)
class Asked:
    """What to generate, by which model name, and how to answer. `sources` become the request's media, in order.

    `options` are what only this protocol's answer needs to know.
    """

    request: GenerateRequest
    model: str | None = None
    stream: bool = False
    sources: tuple[Source, ...] = ()
    include_usage: bool = False
    options: Any = None


def new_id(prefix: str) -> str:
    """An id of a request that nobody can guess."""
    return f"{prefix}-{secrets.token_hex(12)}"


Read = Callable[[Mapping[str, Any], float], Asked]
"""read(body, time cap in seconds): RequestError 400 names the first field at fault."""


class Events(ABC):
    """The answer to one request in a protocol's shape, piece by piece."""

    stream_type = EVENTS

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        self.asked, self.request, self.model, self.prompt_tokens = asked, asked.request, model, prompt_tokens

    @abstractmethod
    def events(self, chunks: Sequence[Chunk]) -> bytes:
        """The next part of a stream: what these chunks are on the wire. The first call opens the stream."""

    @abstractmethod
    def end(self, usage: Usage) -> bytes:
        """The last part of a stream, its terminator included."""

    @abstractmethod
    def failed(self, error: LlmctlError) -> bytes:
        """The last part of a stream that ends with an error, its terminator included."""


class Answer(Events):
    """The same where a client may also ask for the whole."""

    @abstractmethod
    def add(self, chunks: Sequence[Chunk]) -> None:
        """Keep the next chunks for `whole`."""

    @abstractmethod
    def whole(self, usage: Usage) -> dict[str, Any]:
        """All that was added, as one object."""


async def begin(service: Service, asked: Asked) -> Stream:
    """The stream of a request that an engine accepted: its model name checked, its images gathered."""
    service.check_model(asked.model)
    if not asked.sources:
        return await service.generate(asked.request)
    check_inputs(service, asked.sources)
    async with gathered(asked.sources, service.media) as media:
        return await service.generate(replace(asked.request, media=media))


def check_inputs(service: Service, sources: Sequence[Source]) -> None:
    """RequestError when the loaded model does not take them; before anything is fetched for it."""
    model = service.identity()
    for one in sources:
        if model and one.kind not in model.inputs:
            why = f"{one.at}: {model.model} takes {', '.join(model.inputs)}, no {one.kind}"
            raise RequestError(why, param=one.at, code="unsupported_content")


Begin = Callable[[Service, Asked], Awaitable[Stream]]


def generating(service: Service, metrics: Metrics, read: Read, kind: type[Answer], start: Begin = begin) -> Handler:
    """The handler of a route that generates. `start` is another way than `begin` to the stream."""

    async def handler(exchange: Exchange) -> None:
        began = time.monotonic()
        asked = read(json_in.parse(await exchange.body()), service.limits.request_time)
        await exchange.while_connected(generate(service, metrics, exchange, asked, kind, began, start))

    return handler


async def generate(
    service: Service,
    metrics: Metrics,
    exchange: Exchange,
    asked: Asked,
    kind: type[Answer],
    began: float,
    start: Begin = begin,
) -> None:
    """Generate and answer. `began` is when the request came, on the monotonic clock."""
    async with await start(service, asked) as stream:
        answer = kind(asked, stream.model, stream.prompt_tokens)
        meter = Meter(metrics, began, stream.prompt_tokens)
        if asked.stream:
            await as_stream(exchange, stream, answer, meter)
        else:
            await _whole(exchange, stream, answer, meter)


async def _whole(exchange: Exchange, stream: Stream, answer: Answer, meter: Meter) -> None:
    usage = Usage(stream.prompt_tokens)
    async for chunks in stream:
        usage = meter.see(chunks) or usage
        answer.add(chunks)
    await exchange.json(answer.whole(usage))


async def as_stream(exchange: Exchange, stream: Stream, answer: Events, meter: Meter) -> None:
    """Send events. Nothing is sent before the first chunk, so that an error until then has its own status."""
    usage = Usage(stream.prompt_tokens)
    try:
        async for chunks in stream:
            usage = meter.see(chunks) or usage
            data = answer.events(chunks)
            if not exchange.status:
                await exchange.start(200, answer.stream_type)
            if data:
                await exchange.write(data)
        end = _told(exchange, answer, usage) + answer.end(usage)
    except LlmctlError as error:
        if not exchange.status:
            raise
        end = answer.failed(error)
    await exchange.write(end, last=True)


def _told(exchange: Exchange, answer: Events, usage: Usage) -> bytes:
    """What a request cost, in a comment for who asks for it, whatever the protocol tells: the gateway counts by it."""
    if answer.stream_type != EVENTS or (b"x-llmctl-usage", b"1") not in exchange.scope["headers"]:
        return b""
    return b': usage {"prompt_tokens":%d,"completion_tokens":%d}\n\n' % (usage.prompt, usage.completion)
