"""What the slots of this host are: asked of their servers, or read where none runs; imports as little as it can.

Hosts run this for other hosts, many at once on few cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.errors import LlmctlError, UnknownName, Unreachable
from llmctl.files import read_json
from llmctl.slots import control

TIMEOUT = 5.0
REPLICA: Mapping[str, Any] = {
    "where": "", "model": None, "handles": (), "warm": False, "resting": False, "why": None, "on_demand": False,
    "requests": 0, "tokens": 0,
}  # fmt: skip
"""A slot behind a gateway: `where` is HOST:PORT, `warm` that its model is loaded, `resting` that it is not asked, for
`why`; `requests` and `tokens` are what it has to do."""


@dataclass(frozen=True)
class SlotStatus:
    """One row of `status`. `since` is epoch seconds, `memory_bytes` the engine's resident memory; `load_path` and
    `residency` are those of its identity; `progress` is how far a load is; `spare` is starting or ready, None where the
    slot has none. `silent` is seconds since an engine with requests made progress, `unused` since its last request.
    `crashes` are those of the last ten minutes, `last_good` is the model that served before the desired one.
    `replicas` are the slots behind a gateway, as it sees them."""

    host: str
    port: int
    model: str | None = None
    engine: str | None = None
    state: str = "empty"
    pid: int | None = None
    runner_pid: int | None = None
    handles: tuple[str, ...] = ()
    since: float = 0.0
    memory_bytes: int = 0
    tokens_per_second: float = 0.0
    active: int = 0
    silent: float = 0.0
    queued: int = 0
    operation: str | None = None
    version: str | None = None
    why: str | None = None
    spread: tuple[str, ...] = ()
    spare: str | None = None
    spare_pid: int | None = None
    load_path: str | None = None
    residency: Mapping[str, int] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    crashes: int = 0
    queue_limit: int = 0
    last_good: str | None = None
    unused: float = 0.0
    replicas: tuple[Mapping[str, Any], ...] = ()


def status(home: Path, ports: Sequence[int] | None = None, host: str = "local") -> list[SlotStatus]:
    """Every slot of this host, or those of `ports`; UnknownName for a port that never was one."""
    known = paths.slot_ports(home)
    for port in ports or ():
        if port not in known:
            raise UnknownName(f"port {port} is no slot here", hint=f"llmctl load {port} MODEL", port=port)
    return [_status(home, port, host) for port in (ports or known)]


def shares(home: Path) -> list[dict[str, Any]]:
    """The shares that this host computes of models in slots of others (`admission.RankEntry`)."""
    if not any("model" in entry for entry in (read_json(home / "ledger.json") or {}).values()):
        return []  # as on most hosts: what follows imports more
    from llmctl.slots.admission import Ledger

    return [asdict(share) for share in Ledger(home).ranks()]


def row(host: str, said: Mapping[str, Any]) -> SlotStatus:
    """What a slot server, or another llmctl, says of a slot; what this one does not know is left out."""
    known = {key: value for key, value in said.items() if key in SlotStatus.__dataclass_fields__}
    lists = {key: tuple(said.get(key) or ()) for key in ("handles", "spread")}
    replicas = tuple({**REPLICA, **replica} for replica in said.get("replicas") or ())
    return SlotStatus(**{**known, "host": host, **lists, "replicas": replicas})


def _status(home: Path, port: int, host: str) -> SlotStatus:
    try:
        return row(host, control.call(paths.slot(home, port) / control.NAME, "status", timeout=TIMEOUT))
    except Unreachable:
        return _at_rest(home, port, host)


def _at_rest(home: Path, port: int, host: str) -> SlotStatus:
    """A slot without a server: what is desired, and that it is down."""
    from llmctl import units
    from llmctl.domain import CRASH_LOOP, DISABLED, DOWN, EMPTY
    from llmctl.slots.state import SlotFolder, last_good

    folder = SlotFolder(home, port)
    try:
        desired, actual = folder.read_desired(), folder.read_actual()
    except LlmctlError as error:
        return SlotStatus(host, port, state=DOWN, why=error.message)
    spec, disabled = desired.spec, desired.disabled
    if disabled and not disabled.over():
        state, why = DISABLED, disabled.why
    elif spec is None:
        state, why = EMPTY, None
    else:
        state = CRASH_LOOP if actual.state == CRASH_LOOP else DOWN
        why = f"no slot server runs; llmctl restart {port}"
        unit = units.get(desired.launch.service).state(home, port)
        if unit.active == units.FAILED:
            state, why = CRASH_LOOP, f"its slot server ended again and again; llmctl restart {port}"
        elif unit.active in units.COMING:
            why = "its slot server is being started"
    return SlotStatus(
        host, port, spec.model if spec else None, spec.engine.engine if spec else None, state,
        since=actual.since, why=why, spread=tuple(member["host"] for member in spec.engine.spread) if spec else (),
        queue_limit=desired.launch.limits.queue, last_good=last_good(actual),
    )  # fmt: skip
