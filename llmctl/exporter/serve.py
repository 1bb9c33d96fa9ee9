"""The exporter's page over HTTP: the edge of a slot, its rules of Host, Origin and keys, and one route."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping

from llmctl.domain import Limits
from llmctl.errors import LlmctlError, RequestError
from llmctl.exporter.fleet import Exporter, Scraped
from llmctl.exporter.text import CONTENT_TYPE
from llmctl.keys import Keys
from llmctl.runner.auth import Auth
from llmctl.runner.exchange import App, ClientGone, Exchange, Receive, Scope, Send
from llmctl.runner.link import Link
from llmctl.runner.listener import Listener
from llmctl.runner.listener import bind as listen

ROUTE = "/metrics"
LIMITS = Limits(connections=64, body_bytes=2**16, bodies_bytes=2**20)
TOLD = b"x-prometheus-scrape-timeout-seconds"
MARGIN = 0.5  # seconds that an answer takes on its way


def make_app(exporter: Exporter, auth: Auth, deadline: float) -> App:
    """The application; a scrape takes `deadline` seconds at most, and less where Prometheus waits less."""
    pages = _Pages(exporter)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await Link(scope, receive, send, lambda: None).deny(_no_route())
            return
        exchange = Exchange(scope, receive, send)
        try:
            auth.check(scope)
            _check_route(exchange)
            scraped = await pages.next(patience(dict(scope["headers"]), deadline))
            await exchange.respond(200, CONTENT_TYPE.encode(), scraped.text.encode())
        except LlmctlError as error:
            await exchange.error(error)
        except ClientGone:
            pass

    return app


def patience(headers: Mapping[bytes, bytes], deadline: float) -> float:
    """Seconds for one scrape: the deadline, or what Prometheus says that it waits, less what the way takes."""
    try:
        asked = float(headers.get(TOLD, b"nan"))
    except ValueError:
        return deadline
    return min(deadline, max(MARGIN, asked - MARGIN)) if asked > 0 else deadline


def _check_route(exchange: Exchange) -> None:
    if exchange.path != ROUTE:
        raise _no_route()
    if exchange.method not in ("GET", "HEAD"):
        details = {"allow": "GET, HEAD"}
        raise RequestError("this route takes GET", status=405, code="method_not_allowed", details=details)


def _no_route() -> RequestError:
    return RequestError(f"there is {ROUTE} and nothing else", status=404, code="not_found")


class _Pages:
    """Scrapes, one at a time: who comes while one is made gets that one."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter
        self._making: asyncio.Task[Scraped] | None = None

    async def next(self, within: float) -> Scraped:
        if self._making is None or self._making.done():
            self._making = asyncio.ensure_future(asyncio.to_thread(self.exporter.scrape, within))
        return await asyncio.shield(self._making)


class Server:
    """The page on one address. Refused when the port is taken, or others could reach it and there is no key."""

    def __init__(self, bind: str, port: int, keys: Keys | None, exporter: Exporter, deadline: float) -> None:
        auth = Auth(bind, keys, what="the exporter")
        self.url = f"http://{f'[{bind}]' if ':' in bind else bind or '0.0.0.0'}:{port}{ROUTE}"
        self._app = make_app(exporter, auth, deadline)
        self._sock = listen(bind, port)

    def run(self) -> None:
        """Answer until SIGTERM or SIGINT."""
        with self._sock:
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        listener, stopping = Listener(self._sock, self._app, LIMITS), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await listener.accept()
        await stopping.wait()
        await listener.drain(0.0)
