"""What slots and the gateway answer to, asked of themselves: each over the way that its host allows."""

from __future__ import annotations

import http.client
import json
from typing import Any

from llmctl import keys
from llmctl.cli.reach import Reach
from llmctl.errors import LlmctlError
from llmctl.fleet import fanout
from llmctl.gateway.checking import Live
from llmctl.gateway.life import PORT
from llmctl.gateway.registry import Registry, Replica

TIMEOUT = 10.0


def said(reach: Reach, made: Registry) -> tuple[dict[str, Live], list[str] | None]:
    """By HOST:PORT, those that answered; and the handles that the gateway of this machine lists, None where none is."""
    replicas = {replica.where: replica for handle in made.handles.values() for replica in handle.replicas}
    found: dict[str, Live] = {}

    def on(host: Any) -> list[tuple[str, Live]]:
        mine = [replica for replica in replicas.values() if replica.host == host.name]
        return [(one.where, live) for one in mine if (live := _slot(reach, one))]

    hosts = [reach.session.config.hosts[name] for name in {one.host for one in replicas.values()}]
    for outcome in fanout.over(hosts, on):
        found.update(outcome.value or ())
    return found, _gateway(reach)


def _slot(reach: Reach, replica: Replica) -> Live | None:
    try:
        sock = reach.transport(reach.session.config.hosts[replica.host]).dial("127.0.0.1", replica.port)
    except (LlmctlError, OSError):
        return None
    rows = _listed(sock, replica.port, None)
    if rows is None:
        return None
    context = next((row[key] for row in rows for key in ("max_model_len", "context_length") if row.get(key)), None)
    return Live(tuple(str(row.get("id")) for row in rows), context)


def _gateway(reach: Reach) -> list[str] | None:
    found = keys.read(reach.session.home)
    rows = _listed(None, PORT, found.client if found else None)
    return None if rows is None else [str(row.get("id")) for row in rows]


def _listed(sock: Any, port: int, key: str | None) -> list[dict[str, Any]] | None:
    """The rows of GET /v1/models; None where nobody answers that."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    if sock is not None:
        sock.settimeout(TIMEOUT)
        connection.sock = sock
    try:
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"} if key else {})
        data = json.loads(connection.getresponse().read())
        return [row for row in data["data"] if isinstance(row, dict)]
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
        return None
    finally:
        connection.close()
