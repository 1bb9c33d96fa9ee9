"""What slots and the gateway answer to, asked of themselves: each over the way that its host allows."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from llmctl import keys
from llmctl.cli import handles_work
from llmctl.cli.reach import Reach
from llmctl.config import Host
from llmctl.domain import DISABLED, GATEWAY
from llmctl.errors import LlmctlError, Unreachable
from llmctl.fleet import fanout
from llmctl.gateway import checking
from llmctl.gateway.checking import Live
from llmctl.gateway.derive import Problem, Rows
from llmctl.gateway.registry import Registry, Replica

TIMEOUT = 10.0


@dataclass(frozen=True)
class Said:
    """What does not agree, and who was not asked at all."""

    problems: list[Problem]
    not_asked: list[str]


def said(reach: Reach, made: Registry, rows: Rows) -> Said:
    """Ask the slots of all handles that have a model, and the gateways of this machine."""
    replicas = {replica.where: replica for handle in made.handles.values() for replica in handle.replicas}
    hosts = [reach.session.config.hosts[name] for name in dict.fromkeys(one.host for one in replicas.values())]
    given = handles_work.keys_of(reach, made)
    why_not = {one.where: why for one in replicas.values() if (why := _why_not(one, rows))}
    not_asked = [f"{where}, {why}" for where, why in why_not.items()]

    def on(host: Host) -> list[tuple[str, Live]]:
        mine = [one for one in replicas.values() if one.host == host.name and one.where not in why_not]
        return [(one.where, _slot(reach, one, given.get(host.name))) for one in mine]

    outcomes = fanout.over([host for host in hosts if host.name in rows], on)
    found = [*checking.live(made, dict(pair for outcome in outcomes for pair in outcome.value or ()))]
    gateways = _gateways(reach, rows)
    for port in gateways:
        found += _gateway(reach, made, port)
    return Said(found, [*not_asked, *(() if gateways else ("the gateway, which is not up",))])


def _why_not(replica: Replica, rows: Rows) -> str | None:
    """Why a slot is not asked."""
    if replica.host not in rows:
        return "whose host says nothing"
    row = rows[replica.host].get(replica.port)
    if replica.on_demand and not (row and row["model"]):
        return "loaded at its first request"
    return "which is disabled" if row and row["state"] == DISABLED else None


def _slot(reach: Reach, replica: Replica, key: str | None) -> Live:
    host = reach.session.config.hosts[replica.host]
    bound = replica.address.rpartition(":")[0].strip("[]") if replica.address else ""
    to = bound if host.transport == "local" and bound else "127.0.0.1"
    try:
        rows = _listed(reach.transport(host).dial(to, replica.port), replica.port, key)
    except (LlmctlError, OSError) as error:
        return Live(why=getattr(error, "message", str(error)))
    return live(rows)


def live(rows: list[dict[str, Any]]) -> Live:
    """What a slot says of itself; a port may be anybody's, and fields of other types say nothing."""
    first = rows[0] if rows else {}
    context, can = first.get("context_length"), first.get("capabilities")
    return Live(
        tuple(str(row.get("id")) for row in rows), context if type(context) is int else None,
        str(first.get("engine") or ""),
        tuple(can) if isinstance(can, list) and all(isinstance(one, str) for one in can) else (),
    )  # fmt: skip


def _gateways(reach: Reach, rows: Rows) -> list[int]:
    """The ports of this machine that are gateways."""
    local = [name for name, host in reach.session.config.hosts.items() if host.transport == "local"]
    return sorted({port for name in local for port, row in rows.get(name, {}).items() if row["engine"] == GATEWAY})


def _gateway(reach: Reach, made: Registry, port: int) -> list[Problem]:
    found = keys.read(reach.session.home)
    try:
        rows = _listed(None, port, found.client if found else None)
    except (LlmctlError, OSError) as error:
        why = getattr(error, "message", str(error))
        return [Problem(f"the gateway {port}", f"it does not answer: {why}", "llmctl gateway status")]
    return list(checking.listed(made, (str(row.get("id")) for row in rows), str(port)))


def _listed(sock: Any, port: int, key: str | None) -> list[dict[str, Any]]:
    """The rows of GET /v1/models; Unreachable where that is not answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    if sock is not None:
        sock.settimeout(TIMEOUT)
        connection.sock = sock
    try:
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise Unreachable(f"GET /v1/models is answered with {answer.status}")
        return [row for row in json.loads(data)["data"] if isinstance(row, dict)]
    except (ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise Unreachable(f"GET /v1/models is answered with nonsense: {error!r:.100}") from None
    finally:
        connection.close()
