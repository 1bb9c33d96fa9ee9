"""A look at this machine and its slots: what `llmctl host health` answers, and no judgement of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from llmctl import __version__, events, keys, units
from llmctl.checks.slot_http import SlotHttp
from llmctl.domain import DOWN, EMPTY, GATEWAY, READY, SLEEPING
from llmctl.errors import LlmctlError
from llmctl.health import asked, fronting, machine, sensors
from llmctl.health.seen import Generation, HostSeen, SlotSeen, Unit
from llmctl.host import look as deploys
from llmctl.slots import status as rows
from llmctl.slots.state import Desired, SlotFolder
from llmctl.slots.status import SlotStatus

AT_ONCE = 4
"""Slots that are asked at the same time: each has cores or a GPU to itself only now and then."""


def look(
    home: Path, backend: str, models: Path, *, ports: Sequence[int], timeout: float, wake: bool, cursor: str
) -> HostSeen:  # fmt: skip
    """What there is; `ports` none: all slots. `models` is where models lie, `timeout` is for each slot's answer, and
    `cursor` is where its events go on."""
    found = rows.status(home, ports or None)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="health") as pool:
        slots = tuple(pool.map(lambda row: slot(home, row, timeout, wake), found))
    happened, cursor = events.since(home, cursor)
    holder = deploys.holder(home)
    return HostSeen(
        at=time.time(), version=__version__, slots=slots, sensors=sensors.sensors(home=home), events=tuple(happened),
        cursor=cursor, deploying=str(holder["owner"]) if holder else None, **machine.machine(home, backend, models),
    )  # fmt: skip


def slot(home: Path, row: SlotStatus, timeout: float, wake: bool = False) -> SlotSeen:
    """One slot: its server, its unit, and an answer of its model where that may be asked."""
    folder = SlotFolder(home, row.port)
    try:
        desired = folder.read_desired()
    except LlmctlError as error:
        return SlotSeen(row.port, row.model, DOWN, why=error.message)
    spec, disabled = desired.spec, desired.disabled
    seen = SlotSeen(
        port=row.port, desired=spec.model if spec else None, state=row.state, model=row.model, engine=row.engine,
        why=row.why, since=row.since, operation=row.operation, disabled=disabled.why if disabled else None,
        server=row.runner_pid is not None, version=row.version, unit=_unit(home, row, desired), active=row.active,
        queued=row.queued, queue_limit=row.queue_limit, crashes=row.crashes, memory=row.memory_bytes,
        last_good=row.last_good, replicas=row.replicas,
    )  # fmt: skip
    if spec is None or row.operation:
        return seen
    found = keys.read(home)
    if spec.engine.engine == GATEWAY and seen.server:
        gateway = SlotHttp(desired.launch.bind, row.port, found.client if found else None, timeout)
        return replace(seen, generation=asked.through(gateway, fronting.to_ask(row.replicas)))
    if not (row.state == READY or (row.state == SLEEPING and wake)):
        return seen
    patience = timeout + (spec.load_timeout if row.state == SLEEPING else 0)
    http = SlotHttp(desired.launch.bind, row.port, found.client if found else None, patience)
    said = asked.generation(http, spec.probe)
    return _after(home, seen, said) if said.why else replace(seen, generation=said, model=said.model)


def _after(home: Path, seen: SlotSeen, said: Generation) -> SlotSeen:
    """A slot that did not answer, as it is now: it may be changing, or answering others."""
    now = rows.status(home, [seen.port])[0]
    said = replace(said, busy=said.busy and now.silent < 0.8 * said.seconds)
    return replace(seen, state=now.state, why=now.why, operation=now.operation, crashes=now.crashes, generation=said)


def _unit(home: Path, row: SlotStatus, desired: Desired) -> Unit | None:
    if row.state == EMPTY and desired.spec is None:
        return None
    service = desired.launch.service
    try:
        state = units.get(service).state(home, row.port)
    except LlmctlError as error:
        return Unit(service, False, error.message)
    return Unit(service, state.enabled, state.active, state.restarts)
