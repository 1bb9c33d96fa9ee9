"""What is read: the fleet, a slot, the history, and the streams that keep them up to date."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmctl.errors import RequestError
from llmctl.events import KINDS
from llmctl.render.text import escaped
from llmctl.web import fleet
from llmctl.web.acts import Acts
from llmctl.web.live import Hub, Lines, Stream, event
from llmctl.web.past import SPANS, USUAL, Past
from llmctl.web.sessions import Visitor
from llmctl.web.template import Templates
from llmctl.web.texts import part_id, slot_path
from llmctl.web.verbs import Verbs

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

LOG_LINES, WHOLE_LOG = 100, 1000


@dataclass(frozen=True)
class Pages:
    """Everything that a page is made of."""

    verbs: Verbs
    hub: Hub
    past: Past
    acts: Acts
    templates: Templates

    def fleet(self, request: Request) -> Response:
        shown = fleet.of(self.hub.snapshot(), self.past.standing())
        return self.templates.page(request, "fleet.html", title="Fleet", here="fleet", live="/live", fleet=shown)

    def slot(self, request: Request) -> Response:
        host, port = slot_asked(request)
        one, slot = fleet.slot_of(self.hub.snapshot(), host, port)
        standing, visitor = self.past.standing(), visitor_of(request)
        span = request.query_params.get("span", USUAL)
        span = span if span in SPANS else USUAL
        past = self.past.slot(host, port, span)
        return self.templates.page(
            request, "slot.html", title=f"{host}:{port}", live=f"{slot_path(host, port)}/live", one=one, slot=slot,
            check=standing.checks.get((host, port)), act=self.acts.of(host, port), past=past, events=past.events,
            incidents=[found for found in standing.incidents if (found.host, found.port) == (host, port)],
            span=span, spans=SPANS,
            models=self.verbs.known() if visitor.admin else (), talks=may_talk(self.verbs, visitor, host),
        )  # fmt: skip

    async def log(self, request: Request) -> Response:
        """The end of a slot's log as text, for who cannot follow it."""
        from starlette.responses import PlainTextResponse

        self.hub.followers.take()
        try:
            lines = await asyncio.to_thread(self.verbs.last_lines, *slot_asked(request), WHOLE_LOG)
        finally:
            self.hub.followers.give_back()
        return PlainTextResponse("".join(f"{escaped(line)}\n" for line in lines), headers={"Cache-Control": "no-store"})

    def history(self, request: Request) -> Response:
        asked = request.query_params
        hosts = list(self.hub.snapshot().hosts)
        host, kind, span = (
            asked.get(name, "") if asked.get(name, "") in known else usual
            for name, known, usual in (("host", hosts, ""), ("kind", KINDS, ""), ("span", SPANS, "7d"))
        )
        return self.templates.page(
            request, "history.html", title="History", here="history", past=self.past.story(span, host or None, kind),
            host=host, kind=kind, span=span, hosts=hosts, kinds=KINDS, spans=SPANS,
        )  # fmt: skip

    # ── live ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def fleet_live(self, request: Request) -> Stream:
        self.hub.readers.take()
        return Stream(self._pieces(request, self.fleet_parts), self.hub.readers.give_back)

    async def slot_live(self, request: Request) -> Stream:
        host, port = slot_asked(request)
        fleet.slot_of(self.hub.snapshot(), host, port)
        self.hub.followers.take()
        visitor = visitor_of(request)
        lines = Lines(self.verbs.follow(host, port, LOG_LINES), self.hub.changed)

        def done() -> None:
            self.hub.followers.give_back()
            threading.Thread(target=lines.cut, daemon=True).start()  # an end over ssh may take its time

        return Stream(self._pieces(request, lambda: self.slot_parts(host, port, visitor), lines), done)

    def fleet_parts(self) -> dict[str, str]:
        """The parts of the fleet's page, by their ids."""
        shown, part = fleet.of(self.hub.snapshot(), self.past.standing()), self.templates.part
        parts = {part_id(one.name): part("host", one, shown.checks) for one in shown.hosts}
        return {"summary": part("summary", shown), **parts}

    def slot_parts(self, host: str, port: int, visitor: Visitor) -> dict[str, str]:
        """Those of a slot's page; none while the slot is not there."""
        try:
            one, slot = fleet.slot_of(self.hub.snapshot(), host, port)
        except RequestError:
            return {}
        check, part = self.past.standing().checks.get((host, port)), self.templates.part
        parts = {
            "title": part("title", one, slot),
            "now": part("now", one, slot, check),
            "act": part("act", self.acts.of(host, port)),
        }
        return parts | ({"verbs": part("verbs", one, slot, visitor, self.verbs.known())} if visitor.admin else {})

    async def _pieces(
        self, request: Request, parts: Callable[[], Mapping[str, str]], lines: Lines | None = None
    ) -> AsyncGenerator[bytes, None]:  # fmt: skip
        """Everything at first, then what is not as it was; a comment when that is nothing for long."""
        sent: Mapping[str, str] = {}
        if lines:
            yield event("from", LOG_LINES)
        async with contextlib.aclosing(self.hub.changes()) as changes:
            async for changed in changes:
                if not request.state.welcome():
                    return
                now = await asyncio.to_thread(parts)
                fresh = {id: html for id, html in now.items() if sent.get(id) != html}
                sent = now
                came = lines.take() if lines else []
                if fresh:
                    yield event("parts", fresh)
                if came:
                    yield event("log", came)
                if not changed and not fresh and not came:
                    yield b": here\n\n"


def visitor_of(request: Request) -> Visitor:
    found: Visitor = request.state.visitor
    return found


def slot_asked(request: Request) -> tuple[str, int]:
    """The host and the port in the path."""
    return request.path_params["host"], request.path_params["port"]


def may_talk(verbs: Verbs, visitor: Visitor, host: str) -> bool:
    """A page gives nobody more than he has: without a key only what is open to everybody here."""
    return bool(visitor.role) or verbs.open_to_all(host)
