"""`llmctl client-config`: what other programs need to be told to talk to a slot, or to the gateway."""

from __future__ import annotations

import contextlib
import shlex
import socket
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl.cli import options as o
from llmctl.cli.session import Session, Target
from llmctl.domain import GATEWAY
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, Refused, UnknownName, UsageError, nearest

if TYPE_CHECKING:
    from llmctl.cli.reach import Reach
    from llmctl.clients.configs import Slot
    from llmctl.config import Host

app = typer.Typer()

ELSEWHERE = 10_000
"""Added to a port that is taken on this machine, for the near end of a tunnel."""


def _kinds(incomplete: str) -> list[str]:
    from llmctl.clients import configs

    return [name for name in configs.KINDS if name.startswith(incomplete)]


@app.command("client-config")
def client_config(
    ctx: typer.Context,
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="Left out: the list of kinds.", autocompletion=_kinds)
    ] = None,
    target: o.PortOrModel = None,
    via: Annotated[
        str | None,
        typer.Option(metavar="gateway|slot", help="Left out: the gateway where one is up and knows the handle."),
    ] = None,
    show_key: Annotated[bool, typer.Option("--show-key", help="Write the key out where the slot wants one.")] = False,
    host: o.Hosts = None,
) -> Answer:
    """Print what to paste into another program so that it talks to the gateway, or to a slot.

    No target: the gateway's default handle; where there is no gateway, the only slot with a model.
    """
    from llmctl.clients import configs

    if kind is None:
        return Answer({"kinds": [{"kind": name, "what": one.what} for name, one in configs.KINDS.items()]})
    if kind not in configs.KINDS:
        close = nearest(kind, configs.KINDS)
        hint = f"did you mean {close!r}?" if close else f"kinds: {', '.join(configs.KINDS)}"
        raise UsageError(f"no kind {kind[:60]!r}", hint=hint)
    if via not in (None, GATEWAY, "slot"):
        raise UsageError(f"--via {via[:40]!r} is none", hint="--via gateway or --via slot")
    return Answer(stream=_shown(_data(ctx.obj, kind, target, via, host or (), show_key)))


def _data(
    session: Session, kind: str, target: str | None, via: str | None, patterns: Sequence[str], show_key: bool
) -> Mapping[str, Any]:
    from llmctl.cli import chat_partner
    from llmctl.cli.reach import Reach
    from llmctl.clients import configs

    with Reach(session) as reach:
        gateway = _gateway(reach, target, via, patterns)
        if gateway:
            found = gateway
        else:
            found = chat_partner.find(reach, target, patterns) if target else chat_partner.only(reach, patterns)
        slot, notes = _slot(reach, found, show_key, target if gateway else None)
    made = configs.KINDS[kind].make(slot)
    return {
        "kind": kind, "host": found.host.name, "port": found.port, "base_url": slot.base, "model": slot.model,
        "aliases": list(slot.aliases), "context": slot.context,
        "parts": [asdict(part) for part in made.parts], "notes": [*notes, *made.notes],
    }  # fmt: skip


def _shown(data: Mapping[str, Any]) -> Generator[str, None, Mapping[str, Any]]:
    from llmctl.render import client_config as show

    for line in show.lines(data):
        if line.aside:
            print(line.text, end="", file=sys.stderr, flush=True)
        else:
            yield line.text
    return data


def _gateway(reach: Reach, target: str | None, via: str | None, patterns: Sequence[str]) -> Target | None:
    """The gateway that is meant; None: a slot is. Refused where one must be, and none is up."""
    from llmctl.cli import chat_partner

    if via == "slot" or (target and target.rpartition(":")[2].isdigit()):
        if via == GATEWAY:
            raise UsageError(f"--via gateway takes a handle, and {target} is a port", hint="llmctl handles list")
        return None
    known = chat_partner.gateway(reach, target, patterns)
    if known is None and via == GATEWAY:
        if target is None or chat_partner.gateway(reach, None, patterns) is None:
            raise Refused("no gateway is up", hint="llmctl gateway up")
        raise UnknownName(f"no gateway knows the handle {target[:140]!r}", hint="llmctl handles list")
    return known


def _slot(reach: Reach, target: Target, show_key: bool, handle: str | None) -> tuple[Slot, list[str]]:
    """What the slot, or the gateway of a handle, says of itself, with the address that this machine reaches it by, and
    how."""
    from llmctl.cli import chat_partner
    from llmctl.clients import configs
    from llmctl.clients.openai import OpenAI

    host, partner = target.host, chat_partner.of_slot(reach, target)
    assert isinstance(partner.client, OpenAI)
    listed = partner.client.listed()
    if not listed:
        raise LlmctlError(f"{partner.name} has no model", hint=f"llmctl load {partner.name} MODEL", port=target.port)
    others = []
    if row := chat_partner.gateway_row(reach, target):
        own = next((one for one in listed if one["id"] in chat_partner.spellings(handle)), listed[0])
        others = [str(one["id"]) for one in listed if one is not own]
        listed = [{**_behind(reach, row, str(own["id"])), **own}]
    first = listed[0]
    context, can = first.get("context_length"), first.get("capabilities") or ()
    base, notes = address(reach.session, host, target.port)
    notes += [f"other handles: {', '.join(others)}"] if others else []
    wants_key = partner.client.keyed
    return configs.Slot(
        base,
        str(first["id"]),
        tuple(str(one["id"]) for one in listed[1:]),
        context if isinstance(context, int) else None,
        images="image" in ((first.get("modalities") or {}).get("input") or ()),
        tools="tools" in can,
        schema="schema" in can,
        wants_key=wants_key,
        key=chat_partner.key_of(reach, host) if wants_key and show_key else None,
        key_command="llmctl keys show" + ("" if host.transport == "local" else f" --host {host.name}"),
    ), notes


def _behind(reach: Reach, row: Mapping[str, Any], handle: str) -> Mapping[str, Any]:
    """What a slot behind a handle says of its model; nothing where none can be asked now."""
    from llmctl.cli import chat_partner
    from llmctl.clients.openai import OpenAI

    hosts = reach.session.config.hosts
    for replica in row["replicas"]:
        name, _, port = replica["where"].rpartition(":")
        if handle in replica["handles"] and replica["warm"] and name in hosts:
            with contextlib.suppress(LlmctlError):
                return OpenAI(chat_partner.place_of(reach, Target(hosts[name], int(port)))).listed()[0]
    return {}


# ── the address ─────────────────────────────────────────────────────────────────────────────────────────────────────


def address(session: Session, host: Host, port: int) -> tuple[str, list[str]]:
    """http://HOST:PORT as programs on this machine reach it, and what has to be done for it."""
    from llmctl.clients.openai import ANYWHERE
    from llmctl.keys import is_loopback

    here = ANYWHERE.get(host.bind, host.bind)
    if host.transport == "local":
        more = f"on other machines it is http://{socket.gethostname()}:{port}"
        return _base(here, port), [] if is_loopback(host.bind) else [more]
    if host.bind not in ANYWHERE and not is_loopback(host.bind):
        return _base(host.bind, port), []
    login, through = _login(session, host)
    if is_loopback(host.bind) or through:
        near = port + (ELSEWHERE if _taken(port) else 0)
        line = shlex.join(["ssh", "-N", "-L", f"{near}:{_bracketed(here)}:{port}", *login])
        why = "listens on its own machine only" if is_loopback(host.bind) else "is behind a gateway"
        return _base("127.0.0.1", near), [f"{host.name}:{port} {why}; keep this open beside it: {line}"]
    return _base(str(host.address), port), []


def _login(session: Session, host: Host) -> tuple[list[str], bool]:
    """The words of an ssh command line for a host, and whether it goes over gateways."""
    from llmctl.fleet.ssh import settings

    found = settings.login(host, session.config)
    hops: list[str] = []
    hop = found.through
    while hop:
        hops.insert(0, f"{hop.user}@{_bracketed(hop.address)}:{hop.port}")
        hop = hop.through
    words = [*(["-p", str(found.port)] if found.port != 22 else []), *(["-J", ",".join(hops)] if hops else [])]
    identity = ["-i", str(host.identity)] if host.identity else []
    return [*identity, *words, f"{found.user}@{host.address}"], bool(hops or found.command)


def _base(name: str, port: int) -> str:
    return f"http://{_bracketed(name)}:{port}"


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _taken(port: int) -> bool:
    """Whether something listens on this machine's own port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False
