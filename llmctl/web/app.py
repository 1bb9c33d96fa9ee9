"""The routes of the status page, and what stands around them."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl import keys
from llmctl.errors import Busy, LlmctlError, RequestError
from llmctl.history import NAME
from llmctl.runner.auth import Auth
from llmctl.web import chat
from llmctl.web.acts import Acts
from llmctl.web.changes import Changes
from llmctl.web.guard import App, Guard
from llmctl.web.live import Hub, Places
from llmctl.web.pages import Pages
from llmctl.web.past import Past
from llmctl.web.sessions import Sessions
from llmctl.web.template import STATIC, Templates, static
from llmctl.web.verbs import Verbs, Watching

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

log = logging.getLogger("llmctl.web")


@dataclass(frozen=True)
class Door:
    """Where the page listens, and whether it wants a key there too where it need not."""

    bind: str = "127.0.0.1"
    port: int = 8091
    require_key: bool = False

    def auth(self, home: Path) -> Auth:
        """Refused where a key is needed and there is none."""
        return Auth(self.bind, keys.read(home), require_key=self.require_key, what="the page")


class Web:
    """One status page; `app` is its ASGI application. Close it before its watch."""

    def __init__(
        self, home: Path, door: Door, watch: Watching, verbs: Verbs, clock: Callable[[], float] = time.time
    ) -> None:
        self.hub, self.templates = Hub(watch), Templates()
        sessions, acts = Sessions(home, door.port), Acts(self.hub.changed)
        self.pages = Pages(verbs, self.hub, Past(home / NAME, clock), acts, self.templates)
        chats = Places(chat.CHATS, "conversations")
        self.changes = Changes(home, verbs, self.hub, acts, sessions, self.templates, chats)
        self.app: App = Guard(self._router(), door.auth(home), sessions, self.templates.style, self._refusal)

    def close(self) -> None:
        """End what is open; on the loop that serves it."""
        self.hub.close()

    def routes(self) -> list[BaseRoute]:
        from starlette.routing import Route

        pages, changes = self.pages, self.changes
        slot = "/slots/{host}/{port:int}"
        return [
            Route("/", pages.fleet),
            Route("/live", pages.fleet_live),
            Route("/history", pages.history),
            Route("/sign-in", changes.sign_in_page, methods=["GET"]),
            Route("/sign-in", changes.sign_in, methods=["POST"]),
            Route("/sign-out", changes.sign_out, methods=["POST"]),
            Route(slot, pages.slot),
            Route(f"{slot}/live", pages.slot_live),
            Route(f"{slot}/log", pages.log),
            Route(f"{slot}/chat", changes.talk, methods=["POST"]),
            Route(f"{slot}/{{verb}}", changes.change, methods=["POST"]),
            Route("/static/{name}", _static),
        ]

    def _router(self) -> App:
        from starlette.routing import Router

        async def nowhere(scope: Any, receive: Any, send: Any) -> None:
            raise RequestError("there is no such page", status=404, code="not_found")

        return Router(self.routes(), redirect_slashes=False, default=nowhere)

    def _refusal(self, scope: Mapping[str, Any], error: Exception) -> App:
        """The page that an error is; a bug of ours is logged by its place, without what was sent."""
        from starlette.requests import Request

        if not isinstance(error, LlmctlError):
            place = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s in a page\n%s", type(error).__name__, place)
            error = RequestError("internal error", status=500, code="internal_error")
        return _refused(self.templates, Request(dict(scope)), error)


def _refused(templates: Templates, request: Request, error: LlmctlError) -> Response:
    from starlette.responses import PlainTextResponse

    status = error.status if isinstance(error, RequestError) else 409 if isinstance(error, Busy) else 500
    if "text/html" not in request.headers.get("accept", ""):
        hint = f" · {error.hint}" if error.hint else ""
        answer: Response = PlainTextResponse(f"{error.message}{hint}\n", status)
    elif status == 401:
        path = request.url.path if request.method == "GET" else "/"
        answer = templates.page(
            request, "sign_in.html", status, alone=True, title="Sign in", why=error.message, next=path
        )
    else:
        answer = templates.page(
            request, "refused.html", status, alone=True, title="This did not work", why=error.message, hint=error.hint
        )
    for name, value in _headers(error, status):
        answer.headers[name] = value
    return answer


def _headers(error: LlmctlError, status: int) -> Iterable[tuple[str, str]]:
    if status == 401:
        yield "WWW-Authenticate", "Bearer"
    if "retry_after" in error.details:
        yield "Retry-After", str(error.details["retry_after"])


def _static(request: Request) -> Response:
    from starlette.responses import Response

    name = request.path_params["name"]
    if name not in STATIC:
        raise RequestError("there is no such file", status=404, code="not_found")
    return Response(static(name), headers={"Cache-Control": "no-cache"}, media_type=STATIC[name])
