"""The Anthropic protocol: /v1/messages and its token count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.runner import json_in
from llmctl.runner.exchange import Exchange
from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols.anthropic_answers import MessageAnswer, error_object
from llmctl.runner.protocols.anthropic_fields import read_count, read_messages
from llmctl.runner.protocols.asked import Asked, Routes, generating
from llmctl.runner.protocols.protocol import Protocol
from llmctl.runner.service import Service


def protocol(service: Service, metrics: Metrics) -> Protocol:
    """This protocol's part of a slot."""

    def read(body: Mapping[str, Any], time_cap: float) -> Asked:
        identity = service.identity()
        return read_messages(body, time_cap, identity.context if identity else None)

    async def count(exchange: Exchange) -> None:
        model, task = read_count(json_in.parse(await exchange.body()))
        service.check_model(model)

        async def answer() -> None:
            value = await service.ask(task)
            await exchange.json({"input_tokens": len(value["ids"])})

        await exchange.while_connected(answer())

    routes: Routes = {
        "/v1/messages": {"POST": generating(service, metrics, read, MessageAnswer)},
        "/v1/messages/count_tokens": {"POST": count},
    }
    return Protocol(routes, error_object)
