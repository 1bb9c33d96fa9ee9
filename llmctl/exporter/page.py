"""The exporter's page of what hosts told and history knows. Pure: no clock, no network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.domain import GATEWAY, READY, STATES
from llmctl.exporter import families as f
from llmctl.exporter.asking import BROKEN, Told
from llmctl.exporter.text import Page
from llmctl.health.verdict import WORST_FIRST

_CODE = re.compile(r"[a-z][a-z0-9_]{0,39}")
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")


@dataclass(frozen=True)
class Checked:
    """What history knows of a slot, or of a host (port None): the last verdict, when, and its incidents."""

    host: str
    port: int | None
    verdict: str | None = None
    at: float = 0.0
    open: int = 0
    day: int = 0


def fleet(page: Page, hosts: Sequence[Told], checked: Iterable[Checked]) -> None:
    """All but the exporter's own metrics."""
    for told in hosts:
        page.add(f.HOST_UP, told.data is not None, told.host)
        if told.data is None:
            code = told.code or BROKEN
            page.add(f.HOST_ERROR, 1, told.host, code if _CODE.fullmatch(code) else BROKEN)
        else:
            _host(page, told, told.data)
    for one in checked:
        place = one.host, one.port
        if one.verdict is not None:
            for verdict in WORST_FIRST:
                page.add(f.VERDICT, one.verdict == verdict, *place, verdict)
            page.add(f.CHECKED, one.at, *place)
        page.add(f.INCIDENTS_OPEN, one.open, *place)
        page.add(f.INCIDENTS_DAY, one.day, *place)


def _host(page: Page, told: Told, data: Mapping[str, Any]) -> None:
    page.add(f.HOST_SECONDS, told.seconds, told.host)
    version = str(data.get("version"))
    page.add(f.HOST_INFO, 1, told.host, version if _VERSION.fullmatch(version) else "")
    _sizes(page, told.host, data.get("memory"), f.MEMORY_FREE, f.MEMORY_TOTAL)
    _sizes(page, told.host, data.get("disk"), f.DISK_FREE, f.DISK_TOTAL)
    _number(page, f.LOAD, data.get("load"), told.host)
    for slot in _rows(data.get("slots")):
        _slot(page, told.host, slot["port"], slot)


def _sizes(page: Page, host: str, sizes: Any, free: f.Family, total: f.Family) -> None:
    if isinstance(sizes, Mapping):
        _number(page, free, sizes.get("free"), host)
        _number(page, total, sizes.get("total"), host)


def _number(page: Page, family: f.Family, value: Any, host: str) -> None:
    """A sample of what is a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        page.add(family, value, host)


def _slot(page: Page, host: str, port: int, slot: Mapping[str, Any]) -> None:
    """Its own metrics; of one that does not answer, what its host knows of it. A gateway is no slot that serves a
    model."""
    text = slot.get("metrics")
    up = isinstance(text, str) and page.take(text, host=host, port=str(port)) > 0
    if slot.get("engine") == GATEWAY:
        another = slot.get("model") != GATEWAY  # a LiteLLM counts in its own way
        page.add(f.GATEWAY_UP, up or (another and slot.get("state") == READY), host, port)
        return
    page.add(f.SLOT_UP, up, host, port)
    for state in STATES:  # of a slot that told its state itself, these are there already
        page.add(f.SLOT_STATE, slot.get("state") == state, host, port, state)


def _rows(slots: Any) -> list[Mapping[str, Any]]:
    """What another version of llmctl may have sent, what is no slot left out."""
    rows = slots if isinstance(slots, list) else []
    return [row for row in rows if isinstance(row, Mapping) and isinstance(row.get("port"), int)]
