"""The ASGI application of a slot: who may come in, which handler answers, and what an error looks like."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST

from llmctl.errors import LlmctlError, RequestError
from llmctl.runner.auth import Auth
from llmctl.runner.exchange import App, ClientGone, Exchange, Receive, Scope, Send
from llmctl.runner.link import FAILED, Link
from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols import anthropic, execute, llmws, ollama, openai, ws_chat
from llmctl.runner.protocols.asked import Handler, Routes
from llmctl.runner.protocols.openapi import openapi_routes
from llmctl.runner.protocols.openapi_operations import OPERATIONS
from llmctl.runner.protocols.protocol import Protocol, SocketHandler
from llmctl.runner.service import Service
from llmctl.runner.websocket_edge import Gone

Table = Mapping[str, tuple[dict[str, Handler], Protocol]]
"""{path: (its methods, its protocol)}"""

log = logging.getLogger("llmctl.runner")
OPEN = "/health"  # the one route without a key
PROTOCOLS = (openai, anthropic, ollama, execute, llmws, ws_chat)
GONE = 499  # counted for a client that went away before its answer began


def make_app(service: Service, auth: Auth, metrics: Metrics) -> App:
    """The application of one slot, all its protocols included."""
    protocols = [Protocol(_operator_routes(service, auth, metrics))]
    protocols += [module.protocol(service, metrics) for module in PROTOCOLS]
    routes = {path: (methods, one) for one in protocols for path, methods in one.routes.items()}

    sockets = {path: handler for one in protocols for path, handler in one.sockets.items()}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            link = Link(scope, receive, send, lambda: auth.require("admin", scope))
            await _converse(sockets, auth, metrics, scope, link)
        elif scope["type"] == "http":
            await _serve(routes, auth, metrics, Exchange(scope, receive, send))

    return app


async def _serve(routes: Table, auth: Auth, metrics: Metrics, exchange: Exchange) -> None:
    """Answer one request, whatever happens."""
    route = _match(routes, exchange)
    methods, protocol = routes.get(route, (None, None))
    if protocol:
        exchange.shape = protocol.error
    metrics.began()
    try:
        await _answer(methods, auth, exchange)
    except ClientGone:
        exchange.status = exchange.status or GONE
    finally:
        metrics.ended(route or "none", exchange.status)


async def _answer(methods: dict[str, Handler] | None, auth: Auth, exchange: Exchange) -> None:
    try:
        if exchange.path == OPEN:
            auth.check_source(exchange.scope)
        else:
            auth.check(exchange.scope)
        await _handler(methods, exchange)(exchange)
    except LlmctlError as error:
        await exchange.error(error)
    except asyncio.CancelledError:  # the server ends; uvicorn would log a cancelled request as a crash
        await exchange.error(RequestError("the server is stopping", status=503, code="unavailable"))
    except ClientGone:
        raise
    except Exception as error:
        _report(error)
        await exchange.error(RequestError("internal error", status=500, code="internal_error"))


def _report(error: Exception) -> None:
    """A bug of ours: where it is goes to the log, what the client sent does not."""
    log.error("%s in a handler\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


def _match(routes: Table, exchange: Exchange) -> str:
    """The route of a request, "" when there is none."""
    if exchange.path in routes:
        return exchange.path
    for route in routes:
        if route.endswith("/") and route != "/" and exchange.path.startswith(route):
            exchange.rest = exchange.path[len(route) :]
            return route
    return ""


def _handler(methods: dict[str, Handler] | None, exchange: Exchange) -> Handler:
    if methods is None:
        raise RequestError("there is no such route", status=404, code="not_found")
    method = "GET" if exchange.method == "HEAD" else exchange.method
    if method not in methods:
        allowed = ", ".join(methods)
        raise RequestError(
            f"this route takes {allowed}", status=405, code="method_not_allowed", details={"allow": allowed}
        )
    return methods[method]


async def _converse(
    sockets: Mapping[str, SocketHandler], auth: Auth, metrics: Metrics, scope: Scope, link: Link
) -> None:
    """Serve one WebSocket, whatever happens; who may not come in is told so before it is open."""
    try:
        try:
            auth.check(scope)
            handler = _socket(sockets, link.path)
        except RequestError as error:
            metrics.refused(error.status)
            await link.deny(error)
        else:
            await link.accept()
            await handler(link)
    except (Gone, asyncio.CancelledError):
        pass
    except Exception as error:
        _report(error)
        with contextlib.suppress(Gone):
            await link.close(FAILED, "internal error")


def _socket(sockets: Mapping[str, SocketHandler], path: str) -> SocketHandler:
    if path not in sockets:
        raise RequestError("there is no WebSocket at this route", status=404, code="not_found")
    return sockets[path]


def _operator_routes(service: Service, auth: Auth, metrics: Metrics) -> Routes:
    async def health(exchange: Exchange) -> None:
        """200 while the slot can serve or will by itself, and rbee's two fields; the key's holder sees more."""
        identity, found = service.identity(), dict(service.health())
        bad = found["verdict"] == "down"
        found["status"] = "unhealthy" if bad else "healthy"
        found["vram_bytes"] = identity.memory_bytes if identity else 0
        try:
            auth.check(exchange.scope)
        except RequestError:
            found = {key: found[key] for key in ("status", "vram_bytes", "verdict", "state", "ready")}
        await exchange.json(found, 503 if bad else 200)

    async def ready(exchange: Exchange) -> None:
        """200 once the present engine has generated a token."""
        found = service.health()
        answer = {"ready": bool(found["ready"]), "state": found["state"]}
        if found["ready"]:
            await exchange.json(answer)
        else:
            await exchange.json(answer, 503, [(b"retry-after", b"1")])

    async def scrape(exchange: Exchange) -> None:
        text = metrics.scrape(service.health(), service.identity(), service.figures())
        await exchange.respond(200, CONTENT_TYPE_LATEST.encode(), text)

    routes: Routes = {OPEN: {"GET": health}, "/ready": {"GET": ready}, "/metrics": {"GET": scrape}}
    return routes | openapi_routes(OPERATIONS)
