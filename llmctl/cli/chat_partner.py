"""Whom a question goes to: a slot or a gateway of the fleet, over ssh where it is elsewhere, or a server's URL."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl import paths
from llmctl.cli import reach as reaching
from llmctl.cli import status
from llmctl.cli.chat_options import Meant
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session, Target
from llmctl.clients import urls
from llmctl.clients.openai import ANYWHERE, OpenAI, Place
from llmctl.clients.talk import Client
from llmctl.config import Host
from llmctl.domain import GATEWAY, READY
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, Refused, TransportCut, UnknownName, UsageError
from llmctl.fleet import selection

LLMWS_PORT = 8765


@dataclass(frozen=True)
class Partner:
    """A client with the name that people know it by; `data` says in an envelope who answered."""

    client: Client
    name: str
    data: Mapping[str, Any]


def of(reach: Reach, meant: Meant) -> Partner:
    """Whom the options of a command line mean; the key of another server may be in LLMCTL_KEY."""
    if meant.url is not None:
        key = meant.key or os.environ.get("LLMCTL_KEY") or None
        client = urls.client(meant.url, key, meant.model, meant.session, meant.hint)
        return Partner(client, meant.url, {"url": meant.url})
    if meant.model is not None:
        target = gateway(reach, meant.model, meant.hosts)
        return over(reach, target, meant.model) if target else of_slot(reach, find(reach, meant.model, meant.hosts))
    if meant.target is not None:
        return named(reach, meant.target, meant.hosts)
    return of_slot(reach, only(reach, meant.hosts))


def named(reach: Reach, text: str, patterns: Sequence[str] | None = None) -> Partner:
    """The slot that `text` means (see find); a handle that no slot serves now is asked over the gateway that knows it,
    which may load it."""
    try:
        return of_slot(reach, find(reach, text, patterns))
    except Refused:
        target = gateway(reach, text, patterns)
        if target is None:
            raise
        return over(reach, target, text)


def over(reach: Reach, target: Target, handle: str) -> Partner:
    """A handle, asked over a gateway."""
    where = f"{target.host.name}:{target.port}"
    data = {"host": target.host.name, "port": target.port, "handle": handle}
    return Partner(OpenAI(place_of(reach, target), handle), f"{handle} over {where}", data)


def of_slot(reach: Reach, target: Target) -> Partner:
    """A slot; one of another host is reached over its ssh connection, also when it listens on loopback only."""
    name, data = f"{target.host.name}:{target.port}", {"host": target.host.name, "port": target.port}
    return Partner(OpenAI(place_of(reach, target)), name, data)


def place_of(reach: Reach, target: Target) -> Place:
    """Where a slot is, and how its key is found."""
    host, port = target.host, target.port
    slot = str(port) if host.transport == "local" else f"{host.name}:{port}"
    address = ANYWHERE.get(host.bind, host.bind)
    netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    def dial() -> socket.socket:
        try:
            return reach.transport(host).dial(address, port)
        except TransportCut:  # it was idle for long
            reach.drop(host)
            return reach.transport(host).dial(address, port)

    return Place(dial, netloc, slot=slot, find_key=lambda: key_of(reach, host))


def key_of(reach: Reach, host: Host) -> str | None:
    """The client key of a host's slots; None when it has none yet."""
    from llmctl import keys

    if host.transport == "local":
        return keys.current()
    reply = reach.call(host, ["keys", "show"], lambda _: Answer(), timeout=reaching.LOOK, any_version=True)
    return str(reply.value()["client"])


# ── which slot ──────────────────────────────────────────────────────────────────────────────────────────────────────


def find(reach: Reach, text: str, patterns: Sequence[str] | None = None) -> Target:
    """The slot of PORT or HOST:PORT, or one that serves the model (or handle) `text`: ready ones and ours first."""
    session = reach.session
    if text.rpartition(":")[2].isdigit():
        hosts, port = reaching.slots_of(session, text, patterns)
        return Target(reaching.one(hosts, "asking"), int(port))
    try:
        model = session.catalog.resolve(text).id
    except LlmctlError:
        model = text
    for transport in ("local", "ssh"):
        for row in sorted(slots(reach, patterns, transport), key=lambda row: row["state"] != READY):
            if row["model"] == model or text in row["handles"]:
                return Target(session.config.hosts[row["host"]], row["port"])
    raise Refused(f"no slot serves {text[:140]!r}", hint=f"llmctl load auto {model}")


def only(reach: Reach, patterns: Sequence[str] | None = None) -> Target:
    """The slot that is meant when none is named: the only one with a model, on this machine or else elsewhere."""
    for transport in ("local", "ssh"):
        found = [row for row in slots(reach, patterns, transport) if row["model"]]
        if len(found) == 1:
            return Target(reach.session.config.hosts[found[0]["host"]], found[0]["port"])
        if found:
            named = [f"{row['host']}:{row['port']}" for row in found]
            raise UsageError(f"which slot: {', '.join(named)}?", hint=f"name it: {named[0]}")
    raise Refused("no slot has a model", hint="llmctl load auto MODEL")


def gateway(reach: Reach, handle: str | None = None, patterns: Sequence[str] | None = None) -> Target | None:
    """The gateway that knows a handle (None: any gateway that is up), one of this machine first."""
    for transport in ("local", "ssh"):
        for row in gateways(reach, patterns, transport):
            if handle is None or spellings(handle) & set(row["handles"]):
                return Target(reach.session.config.hosts[row["host"]], row["port"])
    return None


def gateway_row(reach: Reach, target: Target) -> dict[str, Any] | None:
    """What a gateway says of itself; None where a port has none."""
    return next((row for row in gateways(reach, [target.host.name]) if row["port"] == target.port), None)


def gateways(reach: Reach, patterns: Sequence[str] | None, transport: str | None = None) -> list[dict[str, Any]]:
    """The rows of the gateways that are up."""
    return [row for row in rows(reach, patterns, transport) if row["engine"] == GATEWAY and row["runner_pid"]]


def spellings(handle: str | None) -> set[str]:
    """A handle as it is typed, and as the gateway takes a model's name for one."""
    return {handle, handle.lower().replace(".", "-")} if handle else set()


def slots(reach: Reach, patterns: Sequence[str] | None, transport: str | None = None) -> list[dict[str, Any]]:
    """The rows of slots with an engine of their own."""
    return [row for row in rows(reach, patterns, transport) if row["engine"] != GATEWAY]


def rows(reach: Reach, patterns: Sequence[str] | None, transport: str | None = None) -> list[dict[str, Any]]:
    """The slots of the hosts that are meant, as `status` has them; with `transport` those reached by it."""
    hosts = selection.select(reach.session.config, patterns or ())
    names = [host.name for host in hosts if transport in (None, host.transport)]
    found: list[dict[str, Any]] = status.of_fleet(reach.session, [], names, reach).data["slots"] if names else []
    return found


# ── the options of llm.py ───────────────────────────────────────────────────────────────────────────────────────────


def llmws_url(session: Session, host: str | None, port: int | None) -> str | None:
    """The WebSocket server that --host and --port mean, as llm.py has them; None when they mean a slot of the fleet.

    A host of hosts.toml (also by a glob or @label) and a slot's port on this machine are the fleet's; any other is an
    address.
    """
    if host is not None:
        try:
            selection.select(session.config, [host])
            return None
        except UnknownName:
            if host.startswith("@"):
                raise
    elif port is None or port in paths.slot_ports(session.home):
        return None
    name = host or "localhost"
    return f"ws://{f'[{name}]' if ':' in name else name}:{port or LLMWS_PORT}/"
