"""Clients for an address that is typed: http and https mean OpenAI's protocol, ws and wss llmws."""

from __future__ import annotations

import functools
import socket
import ssl
from urllib.parse import SplitResult, urlsplit

from llmctl.clients.openai import CONNECT_TIMEOUT, OpenAI, Place
from llmctl.clients.talk import Client
from llmctl.errors import UsageError

PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
ANY_MODEL = "default"
"""What a slot answers to, whatever it runs."""


def client(url: str, key: str | None, model: str | None, session: str | None = None, hint: str | None = None) -> Client:
    """The client of the server at `url`; UsageError when that is no address of one. `hint`: when nobody is there."""
    parts = _parts(url)
    if parts.scheme in ("ws", "wss"):
        from llmctl.clients.llmws import Llmws

        return Llmws(url, key, session, hint)
    found = OpenAI(_place(parts, url, key), model)
    if model is None:
        found.model = _only_model(found)
    return found


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 # it is checked when it is read
    except ValueError as error:
        raise UsageError(f"{url[:140]!r} is not an address: {error}") from None
    if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment or not url.isascii():
        raise UsageError(
            f"{url[:140]!r} is not an address of a server", hint="type http://HOST:PORT, https://…, ws://… or wss://…"
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError("a key does not belong in the address", hint="set LLMCTL_KEY")
    return parts


def _place(parts: SplitResult, url: str, key: str | None) -> Place:
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    dial = functools.partial(_dial, host, port, parts.scheme == "https")
    return Place(dial, parts.netloc, path or "/v1", name=url, key=key)


def _dial(host: str, port: int, tls: bool) -> socket.socket:
    sock = socket.create_connection((host, port), CONNECT_TIMEOUT)
    if not tls:
        return sock
    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def _only_model(server: OpenAI) -> str:
    """The model that is meant when none is named: the only one there, or whatever a slot runs."""
    listed = server.listed()
    names = [str(one["id"]) for one in listed]
    if len(names) == 1:
        return names[0]
    if names and all(one.get("owned_by") == "llmctl" for one in listed):
        return ANY_MODEL
    raise UsageError(
        f"{server.place.name} has {len(names) or 'no'} models; which is meant?",
        hint=f"--model NAME, of {', '.join(names[:20])}" if names else "--model NAME",
    )
