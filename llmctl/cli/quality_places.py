"""Whom `quality` asks: a handle at the gateway of this machine where one runs and has it, else a slot."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass, replace

from llmctl import keys
from llmctl.cli import chat_partner
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session, Target
from llmctl.clients.openai import Place, at
from llmctl.errors import LlmctlError, Refused, UnknownName, Unreachable, nearest
from llmctl.gateway import life
from llmctl.slots.state import SlotFolder


@dataclass(frozen=True)
class Asked:
    """Who is measured: `name` is what its baseline is kept by, `through` the server that is asked, as people say it."""

    name: str
    through: str
    host: str
    port: int
    place: Place
    model: str | None


def find(reach: Reach, text: str) -> Asked:
    """The handle that a word means: at the gateway of this machine where one runs and has it, else at its slot."""
    if text.rpartition(":")[2].isdigit():
        return of_slot(reach, chat_partner.find(reach, text))
    handles = _handles(reach.session)
    for name in (text, text.lower().replace(".", "-")):
        if name in handles:
            return _at_the_gateway(reach.session, name)
    try:
        found = of_slot(reach, chat_partner.find(reach, text))
    except Refused:
        if not handles:
            raise
        close = nearest(text, handles)
        hint = f"did you mean {close!r}?" if close else f"handles: {', '.join(handles[:8])}"
        raise UnknownName(f"there is no handle {text[:140]!r}, and no slot serves it", hint=hint) from None
    with contextlib.suppress(LlmctlError):  # a handle, or a model that another host has
        text = reach.session.catalog.resolve(text).id
    return replace(found, name=text, model=text)


def of_slot(reach: Reach, target: Target) -> Asked:
    """A slot by itself, whatever its handles are."""
    place = chat_partner.place_of(reach, target)
    if place.find_key:  # for another host that is a question over ssh
        place = replace(place, find_key=functools.cache(place.find_key))
    name = f"{target.host.name}:{target.port}"
    return Asked(name, f"the slot {name}", target.host.name, target.port, place, None)


def _handles(session: Session) -> list[str]:
    """Those of the gateway here; none where none runs."""
    try:
        return list(life.status(session.home, life.PORT).get("handles") or ())
    except Unreachable:
        return []


def _at_the_gateway(session: Session, name: str) -> Asked:
    bind = SlotFolder(session.home, life.PORT).read_desired().launch.bind
    place = replace(at(bind, life.PORT, os.environ.get("LLMCTL_KEY") or None), find_key=keys.current)
    return Asked(name, f"the gateway on port {life.PORT}", session.here().name, life.PORT, place, name)
