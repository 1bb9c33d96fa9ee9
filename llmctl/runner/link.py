"""One WebSocket and its messages, as the application and the protocols see it."""

from __future__ import annotations

import json
from collections.abc import Callable

from llmctl.errors import LlmctlError
from llmctl.runner.exchange import JSON, Receive, Scope, Send, error_headers, error_object, status_of
from llmctl.runner.websocket_edge import Gone

# Close codes (RFC 6455, section 7.4.1, and the registry that it set up).
REFUSED, FAILED, RESTARTS = 1008, 1011, 1012


class Link:
    """The server's end of one WebSocket. `require_admin` is RequestError 401 unless its client has the admin key."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, require_admin: Callable[[], None]) -> None:
        self.path: str = scope["path"]
        self.require_admin = require_admin
        self._receive, self._send = receive, send

    async def accept(self) -> None:
        """Open it."""
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})

    async def deny(self, error: LlmctlError) -> None:
        """Answer its handshake with an error."""
        await self._receive()  # websocket.connect
        body = json.dumps(error_object(error)).encode()
        headers = [(b"content-type", JSON), (b"content-length", b"%d" % len(body)), *error_headers(error)]
        await self._send({"type": "websocket.http.response.start", "status": status_of(error), "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": body})

    async def hear(self) -> str | bytes | None:
        """The next message; None when the server wants to end. Gone when the client went away."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise Gone
        if message["type"] == "websocket.drain":
            return None
        found: str | bytes = message["text"] if "text" in message else message["bytes"]
        return found

    async def say(self, text: str) -> None:
        """Send a message. Gone when the client went away."""
        await self._send({"type": "websocket.send", "text": text})

    async def answered(self) -> None:
        """No message that was heard waits for an answer."""
        await self._send({"type": "websocket.answered"})

    async def close(self, code: int, reason: str = "") -> None:
        """End it."""
        await self._send({"type": "websocket.close", "code": code, "reason": reason})
