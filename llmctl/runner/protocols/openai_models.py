"""/v1/models: the names a slot answers to, and what the model behind them can."""

from __future__ import annotations

import time
from typing import Any

from llmctl.domain import Identity
from llmctl.errors import RequestError
from llmctl.runner.exchange import Exchange
from llmctl.runner.protocols.asked import Routes
from llmctl.runner.service import Service


def model_routes(service: Service) -> Routes:
    """/v1/models and /v1/models/ID."""
    began = int(time.time())
    last: Identity | None = None

    def model(name: str) -> dict[str, Any]:
        """One name. A model that sleeps is still what it was; of one that was never up, only the names are known."""
        nonlocal last
        names = list(service.served_names())
        last = service.identity() or last
        known = last if last and last.model == names[0] else None
        shown = {"id": name, "object": "model", "created": began, "owned_by": "llmctl", "root": names[0]}
        shown["aliases"] = [other for other in names if other != name]
        return shown | _described(known)

    async def models(exchange: Exchange) -> None:
        await exchange.json({"object": "list", "data": [model(name) for name in service.served_names()]})

    async def one_model(exchange: Exchange) -> None:
        if exchange.rest not in service.served_names():
            raise RequestError("there is no such model here", status=404, code="model_not_found", param="model")
        await exchange.json(model(exchange.rest))

    return {"/v1/models": {"GET": models}, "/v1/models/": {"GET": one_model}}


def _described(model: Identity | None) -> dict[str, Any]:
    if model is None:
        unknown = ("context_length", "max_model_len", "engine", "capabilities", "modalities", "dtype", "adapters")
        return dict.fromkeys(unknown)
    return {
        "context_length": model.context,
        "max_model_len": model.context,
        "engine": model.engine,
        "architecture": model.architecture,
        "dtype": model.dtype,
        "capabilities": list(model.capabilities),
        "adapters": list(model.adapters),
        "modalities": {"input": list(model.inputs), "output": list(model.outputs)},
    }
