"""Whom `quality` asks: a handle at a gateway that knows it, else a slot."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass, replace

from llmctl.cli import chat_partner
from llmctl.cli.reach import Reach
from llmctl.cli.session import Target
from llmctl.clients.openai import Place
from llmctl.errors import LlmctlError, Refused, UnknownName, nearest


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
    """The handle that a word means: at a gateway that knows it, else at its slot."""
    if text.rpartition(":")[2].isdigit():
        return of_slot(reach, chat_partner.find(reach, text))
    if gateway := chat_partner.gateway(reach, text):
        return _over(reach, gateway, text)
    try:
        found = of_slot(reach, chat_partner.find(reach, text))
    except Refused:
        handles = [name for row in chat_partner.gateways(reach, None) for name in row["handles"]]
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
    place = _place(reach, target)
    name = f"{target.host.name}:{target.port}"
    return Asked(name, f"the slot {name}", target.host.name, target.port, place, None)


def _over(reach: Reach, gateway: Target, text: str) -> Asked:
    """A handle at a gateway, which may want a key of its own."""
    row = chat_partner.gateway_row(reach, gateway)
    name = next((one for one in row["handles"] if one in chat_partner.spellings(text)), text) if row else text
    place = replace(_place(reach, gateway), key=os.environ.get("LLMCTL_KEY") or None)
    where = f"{gateway.host.name}:{gateway.port}"
    return Asked(name, f"the gateway {where}", gateway.host.name, gateway.port, place, name)


def _place(reach: Reach, target: Target) -> Place:
    """Where it is. Its key is looked for once in a run: for another host that is a question over ssh."""
    place = chat_partner.place_of(reach, target)
    return replace(place, find_key=functools.cache(place.find_key)) if place.find_key else place
