"""What the gateway answers itself: which handles there are, in each protocol's words, and how it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from llmctl import __version__
from llmctl.errors import RequestError
from llmctl.gateway.callers import Caller
from llmctl.gateway.front import Front
from llmctl.gateway.gate import Gate, Own
from llmctl.gateway.registry import Handle
from llmctl.gateway.request import Request


def routes(gate: Gate, health: Callable[[], Mapping[str, Any]]) -> dict[str, Own]:
    """Path → what answers it."""

    def show_health(front: Front, request: Request, caller: Caller | None) -> None:
        found = {key: value for key, value in health().items() if key != "why"}  # anybody may ask
        front.json(found, 200 if found["verdict"] != "down" else 503)

    def open_to(caller: Caller | None) -> list[Handle]:
        return [one for one in gate.registry.handles.values() if not caller or caller.may(one.name)]

    def ready(front: Front, request: Request, caller: Caller | None) -> None:
        found = health()
        front.json({"ready": found["ready"], "state": found["state"]}, 200 if found["ready"] else 503)

    def models(front: Front, request: Request, caller: Caller | None) -> None:
        front.json({"object": "list", "data": [_openai(one) for one in open_to(caller)]})

    def model(front: Front, request: Request, caller: Caller | None) -> None:
        front.json(_openai(gate.handle(caller, request.path.removeprefix("/v1/models/"))))

    def tags(front: Front, request: Request, caller: Caller | None) -> None:
        front.json({"models": [_ollama(one) for one in open_to(caller)]})

    def running(front: Front, request: Request, caller: Caller | None) -> None:
        there = [one for one in open_to(caller) if not one.on_demand or gate.demand.there(one)]
        front.json({"models": [_ollama(one) for one in there]})

    def version(front: Front, request: Request, caller: Caller | None) -> None:
        front.json({"version": "0.6.4", "llmctl": __version__})

    def scrape(front: Front, request: Request, caller: Caller | None) -> None:
        if caller:
            raise RequestError("the figures of all keys need the host's own key", status=403, code="forbidden")
        page = gate.counts.text(gate.replicas.live, gate.registry, error=bool(health().get("why")))
        front.answer(200, CONTENT_TYPE_LATEST.encode(), page)

    def here(front: Front, request: Request, caller: Caller | None) -> None:
        front.answer(200, b"text/plain; charset=utf-8", b"Ollama is running")

    return {
        "/": here, "/health": show_health, "/ready": ready, "/v1/ready": ready, "/v1/models": models,
        "/v1/models/": model, "/api/tags": tags, "/api/ps": running, "/api/version": version, "/metrics": scrape,
    }  # fmt: skip


def _openai(handle: Handle) -> dict[str, Any]:
    found: dict[str, Any] = {"id": handle.name, "object": "model", "created": 0, "owned_by": "llmctl"}
    if handle.context:
        found["context_length"] = handle.context
    return found


def _ollama(handle: Handle) -> dict[str, Any]:
    return {"name": handle.name, "model": handle.name, "modified_at": "1970-01-01T00:00:00Z", "size": 0, "digest": "",
            "details": {"family": "", "format": ""}}  # fmt: skip
