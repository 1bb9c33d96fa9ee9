"""The Ollama protocol: /api/chat, /api/generate, embeddings, and what its clients ask about models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmctl import __version__
from llmctl.domain import TOKENIZE, Identity, Task
from llmctl.errors import RequestError
from llmctl.runner import json_in
from llmctl.runner.exchange import Exchange
from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols import ollama_models
from llmctl.runner.protocols.asked import Answer, Asked, Handler, Routes, generate, new_id
from llmctl.runner.protocols.ollama_answers import ChatAnswer, GenerateAnswer, created_at, error_object
from llmctl.runner.protocols.ollama_fields import (
    is_empty,
    model,
    read_chat,
    read_embedding,
    read_generate,
)
from llmctl.runner.protocols.openai_embeddings import Vector, shortened, unit, vectors
from llmctl.runner.protocols.protocol import Protocol
from llmctl.runner.service import Service

VERSION = "0.12.6"  # the API that is spoken: clients ask what they may send
TEXT = b"text/plain; charset=utf-8"
OPERATORS = {
    "/api/pull": "llmctl pull MODEL",
    "/api/push": "llmctl pull MODEL on the other host",
    "/api/create": "llmctl convert",
    "/api/copy": "an alias of the model in its catalog entry",
    "/api/delete": "llmctl models rm MODEL",
}
"""{route: what the operator types instead}"""
Reader = Callable[[Mapping[str, Any], float, Identity | None], Asked]


def protocol(service: Service, metrics: Metrics) -> Protocol:
    """This protocol's part of a slot."""
    since = created_at()

    async def root(exchange: Exchange) -> None:
        """What clients look for before they ask anything."""
        await exchange.respond(200, TEXT, b"Ollama is running")

    async def version(exchange: Exchange) -> None:
        await exchange.json({"version": VERSION, "llmctl": __version__})

    async def tags(exchange: Exchange) -> None:
        await exchange.json(ollama_models.listed(service, since))

    async def ps(exchange: Exchange) -> None:
        await exchange.json(ollama_models.running(service))

    async def show(exchange: Exchange) -> None:
        body = json_in.parse(await exchange.body())
        name = body.get("model") or body.get("name")
        service.check_model(model("model", name) if name is not None else None)
        await exchange.json(ollama_models.shown(service, since))

    def asking(read: Reader, kind: type[Answer], nothing: Mapping[str, Any]) -> Handler:
        """The handler of a route that generates, or loads the model when it is asked for nothing."""

        async def handler(exchange: Exchange) -> None:
            began = time.monotonic()
            body = json_in.parse(await exchange.body())
            if is_empty(body):
                await exchange.while_connected(load(exchange, body, nothing))
                return
            asked = read(body, service.limits.request_time, service.identity())
            await exchange.while_connected(generate(service, metrics, exchange, asked, kind, began))

        return handler

    async def load(exchange: Exchange, body: Mapping[str, Any], nothing: Mapping[str, Any]) -> None:
        """Answer once an engine has answered: one that sleeps is awake then."""
        if body.get("keep_alive") == 0:
            raise _for_the_operator("unload a model", "llmctl unload PORT")
        name = body.get("model")
        service.check_model(model("model", name) if name is not None else None)
        await service.ask(Task(new_id("load"), TOKENIZE, {"text": "", "special": False}))
        answered = {"model": service.served_names()[0], "created_at": created_at(), **nothing}
        await exchange.json({**answered, "done": True, "done_reason": "load"})

    def embedding(target: str, answer: Callable[..., Mapping[str, Any]]) -> Handler:
        async def handler(exchange: Exchange) -> None:
            began = time.monotonic_ns()
            name, inputs, dimensions = read_embedding(json_in.parse(await exchange.body()), target)
            service.check_model(name)

            async def reply() -> None:
                found: list[Vector] = []
                tokens = 0
                async for some, more in vectors(service, inputs):
                    found += some
                    tokens += more
                await exchange.json(answer(found, tokens, dimensions, time.monotonic_ns() - began))

            await exchange.while_connected(reply())

        return handler

    def embedded(found: Sequence[Vector], tokens: int, dimensions: int | None, took: int) -> dict[str, Any]:
        return {
            "model": service.served_names()[0],
            "embeddings": [unit(shortened(vector, dimensions)) for vector in found],
            "total_duration": took,
            "load_duration": 0,
            "prompt_eval_count": tokens,
        }

    def one_embedded(found: Sequence[Vector], *_: int | None) -> dict[str, Any]:
        return {"embedding": found[0]}

    routes: Routes = {
        "/": {"GET": root},
        "/api/version": {"GET": version},
        "/api/tags": {"GET": tags},
        "/api/ps": {"GET": ps},
        "/api/show": {"POST": show},
        "/api/chat": {
            "POST": asking(read_chat, ChatAnswer, {"message": {"role": "assistant", "content": ""}}),
        },
        "/api/generate": {"POST": asking(read_generate, GenerateAnswer, {"response": ""})},
        "/api/embed": {"POST": embedding("input", embedded)},
        "/api/embeddings": {"POST": embedding("prompt", one_embedded)},
    }
    for route, command in OPERATORS.items():
        refuse = _refusing(route, command)
        routes[route] = {"POST": refuse, "DELETE": refuse}
    return Protocol(routes, error_object)


def _refusing(route: str, command: str) -> Handler:
    async def handler(exchange: Exchange) -> None:
        raise _for_the_operator(f"{route.rpartition('/')[2]} models", command)

    return handler


def _for_the_operator(what: str, command: str) -> RequestError:
    return RequestError(
        f"clients cannot {what} here: the models of this slot are its operator's",
        status=501, code="not_implemented", hint=f"on the host: {command}",
    )  # fmt: skip
