"""What changes something, or costs: signing in and out, the verbs of a slot, the chat; each with the page's token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from llmctl import keys
from llmctl.errors import RequestError
from llmctl.runner.auth import Auth
from llmctl.web import chat, fleet
from llmctl.web.acts import Act, Acts
from llmctl.web.live import Hub, Places, Stream
from llmctl.web.pages import may_talk, slot_asked, visitor_of
from llmctl.web.sessions import ADMIN, CLIENT, Sessions, Visitor
from llmctl.web.template import Templates
from llmctl.web.texts import slot_path
from llmctl.web.verbs import CHANGES, WITH_MODEL, Verbs

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

FIELDS = 20
FORM = 64 * 1024
CONVERSATION = 512 * 1024


@dataclass(frozen=True)
class Changes:
    """Everything that a change is made with."""

    home: Path
    verbs: Verbs
    hub: Hub
    acts: Acts
    sessions: Sessions
    templates: Templates
    chats: Places

    # ── who ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def sign_in_page(self, request: Request) -> Response:
        return self.templates.page(request, "sign_in.html", title="Sign in", why="", next=_local(_next(request)))

    async def sign_in(self, request: Request) -> Response:
        fields = await _fields(request)
        role = self._role(fields.get("key", ""))
        _told(visitor_of(request), fields.get("token", ""))
        answer = _to(_local(fields.get("next", "/")))
        answer.raw_headers.append(self.sessions.header(self.sessions.open(role)))
        return answer

    async def sign_out(self, request: Request) -> Response:
        visitor = visitor_of(request)
        _told(visitor, (await _fields(request)).get("token", ""))
        self.sessions.close(visitor)
        return _to("/")

    def _role(self, key: str) -> str:
        """What a key opens; RequestError 401."""
        presented = {"headers": [(b"x-api-key", key.encode("utf-8", "replace"))]}
        auth = Auth("127.0.0.1", keys.read(self.home))
        for role in (ADMIN, CLIENT):
            try:
                auth.require(role, presented)
            except RequestError:
                continue
            return role
        raise RequestError("this is no key of this machine: llmctl keys show", status=401, code="invalid_api_key")

    # ── what ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def change(self, request: Request) -> Response:
        """Begin a verb, and go back to the slot's page, which shows how it goes on."""
        (host, port), verb = slot_asked(request), request.path_params["verb"]
        _must_be(visitor_of(request), (ADMIN,))
        fields = await _fields(request)
        _told(visitor_of(request), fields.get("token", ""))
        fleet.slot_of(self.hub.snapshot(), host, port)
        if verb not in CHANGES:
            raise RequestError(f"{verb[:40]!r} is no verb of a slot", status=404, code="not_found")
        model = fields.get("model", "").strip() if verb in WITH_MODEL else None
        if model == "":
            raise RequestError("which model? The form says none", param="model")
        act = Act(host, port, verb, model, time.time())
        self.acts.start(act, lambda on_event: self.verbs.change(verb, host, port, model, on_event))
        return _to(f"{slot_path(host, port)}#act")

    async def talk(self, request: Request) -> Stream:
        """An answer of the slot's model, as it comes."""
        (host, port), visitor = slot_asked(request), visitor_of(request)
        if not may_talk(self.verbs, visitor, host):
            _must_be(visitor, (ADMIN, CLIENT))
        _told(visitor, request.headers.get("x-token", ""))
        fleet.slot_of(self.hub.snapshot(), host, port)
        asked = chat.messages(await _body(request, "application/json", CONVERSATION))
        self.chats.take()
        return Stream(chat.pieces(self.verbs.talk(host, port, bool(visitor.role)), asked), self.chats.give_back)


def _must_be(visitor: Visitor, roles: Sequence[str]) -> None:
    if visitor.role not in roles:
        raise RequestError(f"the {roles[0]} key is needed: sign in with it", status=401, code="invalid_api_key")


def _told(visitor: Visitor, token: str) -> None:
    if not visitor.told(token):
        raise RequestError("this page is too old: go back, load it again, and try once more", status=403, code="token")


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form."""
    body = await _body(request, "application/x-www-form-urlencoded", FORM)
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS))
    except ValueError:
        raise RequestError("the form cannot be read") from None


async def _body(request: Request, kind: str, most: int) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
        raise RequestError(f"this takes {kind}", status=415)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise RequestError(f"this is more than {most} bytes", status=413)
    return bytes(body)


def _next(request: Request) -> str:
    return request.query_params.get("next", "/")


def _local(path: str) -> str:
    """A page of ours, whatever was asked for."""
    fine = path.startswith("/") and not path.startswith("//") and path.isprintable() and "\\" not in path
    return path if fine and path.isascii() else "/"


def _to(path: str) -> Response:
    from starlette.responses import RedirectResponse

    return RedirectResponse(path, 303)
