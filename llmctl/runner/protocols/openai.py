"""The OpenAI protocol: /v1/models, /v1/chat/completions and /v1/completions, whole or as a stream of events."""

from __future__ import annotations

import time
from typing import Any

from llmctl.errors import RequestError
from llmctl.runner.exchange import Exchange
from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols.asked import Routes, generating
from llmctl.runner.protocols.openai_answers import ChatAnswer
from llmctl.runner.protocols.openai_completion_answer import CompletionAnswer
from llmctl.runner.protocols.openai_completions import read_completion
from llmctl.runner.protocols.openai_fields import read_chat
from llmctl.runner.protocols.openai_prompts import begin_each
from llmctl.runner.protocols.openai_response_answer import ResponseAnswer
from llmctl.runner.protocols.openai_responses import read_response
from llmctl.runner.protocols.protocol import Protocol
from llmctl.runner.service import Service


def protocol(service: Service, metrics: Metrics) -> Protocol:
    """This protocol's part of a slot."""
    loaded = int(time.time())

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": loaded, "owned_by": "llmctl"}

    async def models(exchange: Exchange) -> None:
        await exchange.json({"object": "list", "data": [model(name) for name in service.served_names()]})

    async def one_model(exchange: Exchange) -> None:
        if exchange.rest not in service.served_names():
            raise RequestError("there is no such model here", status=404, code="model_not_found", param="model")
        await exchange.json(model(exchange.rest))

    routes: Routes = {
        "/v1/models": {"GET": models},
        "/v1/models/": {"GET": one_model},
        "/v1/chat/completions": {"POST": generating(service, metrics, read_chat, ChatAnswer)},
        "/v1/completions": {
            "POST": generating(service, metrics, read_completion, CompletionAnswer, begin_each(metrics))
        },
        "/v1/responses": {"POST": generating(service, metrics, read_response, ResponseAnswer)},
    }
    return Protocol(routes)
