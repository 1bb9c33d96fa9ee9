"""One HTTP request and its answer, as the handlers of every protocol see it; and the OpenAI error object."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from llmctl.errors import LlmctlError, RequestError

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
PIECE = 256 * 1024  # a long answer is written in pieces, so that a slow reader's buffer stays small
TOLD = ("state", "progress", "eta", "retry_after")  # the only details of an error that a client is told
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ClientGone(Exception):
    """The client went away; nobody reads an answer."""


def status_of(error: LlmctlError) -> int:
    """The HTTP status of an error: 500 for one that is not about a request."""
    return error.status if isinstance(error, RequestError) else 500


def error_object(error: LlmctlError) -> dict[str, Any]:
    """The OpenAI error object of `error`, with hint and details in it where there are any."""
    status, param = status_of(error), getattr(error, "param", None)
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    shown: dict[str, Any] = {"message": error.message, "type": kind, "param": param, "code": error.code}
    if error.hint:
        shown["hint"] = error.hint
    details = {k: v for k, v in error.details.items() if k in TOLD and v is not None}
    if details:
        shown["details"] = details
    return {"error": shown}


def error_headers(error: LlmctlError) -> list[tuple[bytes, bytes]]:
    """The headers that the status of `error` asks for."""
    headers = []
    if status_of(error) == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if "retry_after" in error.details:
        headers.append((b"retry-after", str(max(1, round(error.details["retry_after"]))).encode()))
    if "allow" in error.details:
        headers.append((b"allow", error.details["allow"].encode()))
    return headers


class Exchange:
    """One request and its answer. `rest` is what follows a route that ends in a slash; `shape` shows an error."""

    __slots__ = ("method", "path", "receive", "rest", "scope", "send", "shape", "status", "unread")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.rest = ""
        self.shape: Callable[[LlmctlError], Mapping[str, Any]] = error_object
        self.unread = True  # the body
        self.status = 0  # of the answer; 0 until it has begun

    async def body(self) -> bytes:
        """The whole request body; the edge bounds its size and its time. ClientGone."""
        return b"".join([piece async for piece in self._pieces()])

    async def _pieces(self) -> AsyncIterator[bytes]:
        self.unread = False
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            yield message["body"]
            if not message.get("more_body"):
                return

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, which is cancelled as soon as the client goes away. Call it after `body`."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
        if task.cancelled():
            raise ClientGone
        task.result()

    async def _gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, content_type: bytes, headers: Headers = ()) -> None:
        """Begin the answer."""
        self.status = status
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", content_type), (b"cache-control", b"no-store"), *headers],
            }
        )

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """More of the answer's body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": not last})

    async def respond(self, status: int, content_type: bytes, data: bytes, headers: Headers = ()) -> None:
        """A whole answer."""
        await self.start(status, content_type, [(b"content-length", b"%d" % len(data)), *headers])
        for at in range(PIECE, len(data), PIECE):
            await self.write(data[at - PIECE : at])
        await self.write(data[(len(data) - 1) // PIECE * PIECE :] if data else b"", last=True)

    async def json(self, value: Any, status: int = 200, headers: Headers = ()) -> None:
        """A whole answer in JSON."""
        await self.respond(status, JSON, json.dumps(value).encode(), headers)

    async def error(self, error: LlmctlError) -> None:
        """An error as the whole answer; after the body, for a client that still sends would not read it.

        An answer that has begun cannot become an error any more: uvicorn cuts the connection, so that it is no whole.
        """
        if self.status:
            return
        if self.unread:
            async for _ in self._pieces():
                pass
        await self.json(self.shape(error), status_of(error), error_headers(error))
