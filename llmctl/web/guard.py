"""Who may see a page: Host, Origin and key are checked before any route, and every answer says what a browser may do.

Works on the ASGI scope, so that no route can be forgotten.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from llmctl.errors import RequestError
from llmctl.runner.auth import Auth
from llmctl.web.sessions import Sessions, Visitor

App = Callable[..., Awaitable[None]]
OnError = Callable[[Mapping[str, Any], Exception], App]

READING = ("GET", "HEAD")
SIGN_IN = ("POST", "/sign-in")
"""The one request that needs no key before it: it brings one."""


def headers(style: str) -> list[tuple[bytes, bytes]]:
    """What every answer carries; `style` is the one style sheet that may stand in a page itself."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self' 'sha256-{digest}'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"same-origin"),  # with no-referrer a form would come from the origin "null"
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]


class Guard:
    """Around the routes: `scope["state"]` has the `visitor` who came in, and `welcome()`: whether he still may be here.
    `on_error` makes the page of a refusal."""

    def __init__(self, app: App, auth: Auth, sessions: Sessions, style: str, on_error: OnError) -> None:
        self._app, self._auth, self._sessions, self._on_error = app, auth, sessions, on_error
        self._headers = headers(style)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":  # there is none: refused before it is open
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        visitor = self._sessions.visitor(scope)
        state = scope.setdefault("state", {})
        state["visitor"], state["welcome"] = visitor, lambda: self._still(scope)
        cookie = [self._sessions.header(visitor)] if visitor.new and not from_elsewhere(scope) else []
        began = False

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began, given = True, list(message.get("headers") or ())
                signed = any(name.lower() == b"set-cookie" for name, _ in given)
                message["headers"] = [*given, *self._headers, *([] if signed else cookie)]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, guarded)
        except Exception as error:
            if not began:  # else the client sees that its answer was cut
                await self._on_error(scope, error)(scope, receive, guarded)

    def _still(self, scope: Mapping[str, Any]) -> bool:
        """Whether who came in might come in again: a stream lives longer than a session."""
        try:
            self._check(scope)
        except RequestError:
            return False
        before: Visitor = scope["state"]["visitor"]
        return self._sessions.visitor(scope).role == before.role

    def _check(self, scope: Mapping[str, Any]) -> None:
        self._auth.check_source(scope)
        if scope["method"] not in READING:
            same_origin(scope)
        if not self._sessions.visitor(scope).role and (scope["method"], scope["path"]) != SIGN_IN:
            self._auth.check(scope)


def from_elsewhere(scope: Mapping[str, Any]) -> bool:
    """Whether a link of another site led here: then our cookie was not sent, and a new one would end a session."""
    return any(name == b"sec-fetch-site" and value == b"cross-site" for name, value in scope["headers"])


def same_origin(scope: Mapping[str, Any]) -> None:
    """RequestError 403 unless the page that sends this is one of ours: of this very scheme, name and port."""
    said = {name: value for name, value in scope["headers"] if name in (b"origin", b"host", b"sec-fetch-site")}
    host = said.get(b"host", b"").lower()
    ours = said.get(b"origin", b"").lower() in (b"http://" + host, b"https://" + host)
    if not host or not ours or said.get(b"sec-fetch-site", b"same-origin") != b"same-origin":
        raise RequestError("changes are taken from this server's own pages only", status=403, code="forbidden")
