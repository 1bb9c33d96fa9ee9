"""The OpenAI protocol: /v1/models, /v1/chat/completions and /v1/completions, whole or as a stream of events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from llmctl.domain import Usage
from llmctl.errors import LlmctlError, RequestError
from llmctl.runner import json_in
from llmctl.runner.exchange import EVENTS, Exchange, error_object
from llmctl.runner.metrics import Meter, Metrics
from llmctl.runner.protocols.openai_answers import Answer, ChatAnswer, CompletionAnswer
from llmctl.runner.protocols.openai_fields import Asked, read_chat, read_completion
from llmctl.runner.service import Service, Stream

DONE = b"data: [DONE]\n\n"

Handler = Callable[[Exchange], Awaitable[None]]
Read = Callable[[Mapping[str, Any], str, float], Asked]


def routes(service: Service, metrics: Metrics) -> dict[str, dict[str, Handler]]:
    """This protocol's part of the slot's routes."""
    loaded = int(time.time())

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": loaded, "owned_by": "llmctl"}

    async def models(exchange: Exchange) -> None:
        await exchange.json({"object": "list", "data": [model(name) for name in service.served_names()]})

    async def one_model(exchange: Exchange) -> None:
        if exchange.rest not in service.served_names():
            raise RequestError("there is no such model here", status=404, code="model_not_found", param="model")
        await exchange.json(model(exchange.rest))

    def generating(read: Read, answer: type[Answer]) -> Handler:
        async def handler(exchange: Exchange) -> None:
            began = time.monotonic()
            body = json_in.parse(await exchange.body())
            asked = read(body, f"{answer.prefix}-{secrets.token_hex(12)}", service.limits.request_time)
            service.check_model(asked.model)
            await exchange.while_connected(_generate(service, metrics, exchange, asked, answer, began))

        return handler

    return {
        "/v1/models": {"GET": models},
        "/v1/models/": {"GET": one_model},
        "/v1/chat/completions": {"POST": generating(read_chat, ChatAnswer)},
        "/v1/completions": {"POST": generating(read_completion, CompletionAnswer)},
    }


async def _generate(
    service: Service, metrics: Metrics, exchange: Exchange, asked: Asked, kind: type[Answer], began: float
) -> None:
    async with await service.generate(asked.request) as stream:
        answer = kind(asked.request, stream.model)
        meter = Meter(metrics, began, stream.prompt_tokens)
        if asked.stream:
            await _as_events(exchange, stream, answer, asked.include_usage, meter)
        else:
            await _whole(exchange, stream, answer, meter)


async def _whole(exchange: Exchange, stream: Stream, answer: Answer, meter: Meter) -> None:
    usage = Usage(stream.prompt_tokens)
    async for chunks in stream:
        usage = meter.see(chunks) or usage
        answer.add(chunks)
    await exchange.json(answer.whole(usage))


async def _as_events(exchange: Exchange, stream: Stream, answer: Answer, want_usage: bool, meter: Meter) -> None:
    """Server-sent events. Nothing is sent before the first chunk, so that an error until then has its own status."""
    usage = Usage(stream.prompt_tokens)
    answer.begin_events(want_usage)
    end = DONE
    try:
        async for chunks in stream:
            usage = meter.see(chunks) or usage
            if not exchange.status:
                await exchange.start(200, EVENTS)
            if data := answer.events(chunks):
                await exchange.write(data)
        if want_usage:
            end = answer.usage_event(usage) + DONE
    except LlmctlError as error:
        if not exchange.status:
            raise
        end = b"data: %b\n\n%b" % (json.dumps(error_object(error)).encode(), DONE)
    await exchange.write(end, last=True)
