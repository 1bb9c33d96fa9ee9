"""The fleet as its page shows it: what the hosts said last, and what health thought of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.domain import GATEWAY, READY
from llmctl.errors import RequestError
from llmctl.history.records import Check, Incident
from llmctl.watch.view import UNKNOWN, HostView, Snapshot
from llmctl.web.past import Standing


@dataclass(frozen=True)
class FleetView:
    """All hosts with what is counted over those that answer."""

    hosts: Sequence[HostView]
    checks: Mapping[tuple[str, int | None], Check]
    incidents: Sequence[Incident]
    slots: int
    ready: int
    rate: float
    queued: int
    why: str


def of(snapshot: Snapshot, standing: Standing) -> FleetView:
    """The page's figures at one moment."""
    hosts = list(snapshot.hosts.values())
    known = [slot for host in hosts if host.state != UNKNOWN for slot in host.slots]
    rows = [slot for slot in known if slot["engine"] != GATEWAY]
    return FleetView(
        hosts, standing.checks, standing.incidents, len(rows),
        sum(slot["state"] == READY for slot in rows), sum(slot["tokens_per_second"] for slot in rows),
        sum(slot["queued"] for slot in rows), standing.why,
    )  # fmt: skip


def slot_of(snapshot: Snapshot, host: str, port: int) -> tuple[HostView, Mapping[str, Any]]:
    """One slot; RequestError 404 where there is none."""
    view = snapshot.hosts.get(host)
    found = next((slot for slot in view.slots if slot["port"] == port), None) if view else None
    if view is None or found is None:
        raise RequestError(f"{host}:{port} is no slot that is known here", status=404, code="not_found")
    return view, found
