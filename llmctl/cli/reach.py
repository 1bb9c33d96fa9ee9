"""The hosts of one command line: which are meant, and how a verb runs on each; one connection per host."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from threading import Lock
from typing import Any

from llmctl import envelope
from llmctl.cli.session import OnEvent, Session
from llmctl.config import Config, Host, ProfileSlot, profile_slot_of
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, TransportCut, UsageError
from llmctl.fleet import call, fanout, selection
from llmctl.fleet.call import Reply
from llmctl.fleet.transport import Transport
from llmctl.spread import Member

Here = Callable[[Session], Answer]
LOOK = 30.0
"""Seconds that a host has for an answer that takes no work."""


class Reach:
    """Runs verbs on hosts: on this machine in-process, elsewhere by ssh; both answer with an envelope's parts."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.open: dict[str, Transport] = {}
        self.lock = Lock()

    def __enter__(self) -> Reach:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections, also with something under way."""
        for transport in list(self.open.values()):
            transport.close()

    def transport(self, host: Host) -> Transport:
        """The connection to an ssh host; opened at its first use."""
        from llmctl.fleet.opening import connect

        with self.lock:
            if host.name not in self.open:
                self.open[host.name] = connect(host, self.session.config, self.session.home)
            return self.open[host.name]

    def call(
        self,
        host: Host,
        words: Sequence[str],
        here: Here,
        *,
        stdin: bytes = b"",
        timeout: float = 3600.0,
        on_event: OnEvent | None = None,
        any_version: bool = False,
        check: str | None = None,
        yes: bool = False,
    ) -> Reply:
        """What `llmctl WORDS` answers on `host`; `here` is the same on this machine.

        `check` is what to type when the connection breaks, and nobody knows what was done. `yes`: the question that it
        asks was answered; without it a verb that would ask is refused.
        """
        if host.transport == "local":
            shown = on_event or (lambda event: None)
            session = replace(self.session, chosen=host.name, json=True, yes=yes, on_event=shown)
            return _through_the_envelope(words, here, session)
        typed = ["--yes", *words] if yes else words
        try:
            reply = call.call(
                self.transport(host), typed, stdin=stdin, timeout=timeout, on_event=sound(on_event),
                any_version=any_version,
            )  # fmt: skip
        except LlmctlError as error:
            if isinstance(error, TransportCut):
                error.hint = check or error.hint
                self.drop(host)
            raise
        for met in reply.errors:
            met.hint = typed_here(met.hint, host.name)
        return reply

    def drop(self, host: Host) -> None:
        """Forget a connection that broke: the next call opens another."""
        with self.lock:
            transport = self.open.pop(host.name, None)
        if transport:
            with contextlib.suppress(LlmctlError):
                transport.close()


def _through_the_envelope(words: Sequence[str], here: Here, session: Session) -> Reply:
    """As if it had run elsewhere: what is no JSON does not pass."""
    try:
        answer = here(session)
    except LlmctlError as error:
        error.host = error.host or session.chosen
        answer = envelope.failure(error)
    return call.read(envelope.to_json(" ".join(words[:1]), answer))


def select(session: Session, patterns: Sequence[str] | None) -> list[Host]:
    """The hosts of --host; without any, the default one."""
    return selection.select(session.config, patterns) if patterns else [session.config.host()]


def one(hosts: Sequence[Host], verb: str) -> Host:
    """The only one; UsageError when several are meant where one must be."""
    if len(hosts) > 1:
        names = ", ".join(host.name for host in hosts)
        raise UsageError(f"{verb} works on one host, and {names} are meant", hint=f"--host {hosts[0].name}")
    return hosts[0]


def split(text: str) -> tuple[str | None, str]:
    """HOST:PORT or PORT, where PORT may be `auto`, as (host or None, port)."""
    name, _, port = text.rpartition(":")
    number = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not number and port != "auto":
        raise UsageError(f"{text[:140]!r} is not a port", hint="type 8101 or HOST:8101")
    return name or None, port


def slots_of(session: Session, text: str, patterns: Sequence[str] | None) -> tuple[list[Host], str]:
    """The hosts and the port that a PORT argument means, together with --host (decisions.md, "Which host")."""
    name, port = split(text)
    if name and patterns:
        raise UsageError(f"{text} names its host, and --host does too", hint="leave one of them out")
    if name:
        return [session.config.host(name)], port
    if patterns:
        return selection.select(session.config, patterns), port
    config = session.config
    if config.default_host or len(config.hosts) == 1 or port == "auto":
        return [config.host()], port
    return [_holder(session, int(port))], port


def _holder(session: Session, port: int) -> Host:
    """The only host whose desired state has a model on `port`; all are asked."""
    hosts = list(session.config.hosts.values())
    with Reach(session) as reach:
        outcomes = fanout.over(hosts, lambda host: rows(reach, host)[0])
    silent = [outcome.host.name for outcome in outcomes if outcome.value is None]
    found = [o.host for o in outcomes if any(row["port"] == port and row["model"] for row in o.value or ())]
    if len(found) == 1 and not silent:
        return found[0]
    hint = f"type {(found or hosts)[0].name}:{port}, or set default = HOST in hosts.toml"
    if found:
        names = [host.name for host in found]
        unasked = f" ({', '.join(silent)} could not be asked)" if silent else ""
        raise UsageError(f"which port {port}: {', '.join(f'{n}:{port}' for n in names)}{unasked}?", hint=hint)
    names = [host.name for host in hosts]
    raise UsageError(f"no host has a model on {port}; which is meant: {', '.join(names)}?", hint=hint)


def targets(session: Session, words: Sequence[str]) -> dict[Host, list[str]]:
    """What words like 8101, HOST:8101, HOST and @LABEL mean: hosts, each with its ports (none: all of them)."""
    found: dict[Host, list[str]] = {}
    for text in words:
        if text.rpartition(":")[2].isdigit():
            hosts, port = slots_of(session, text, None)
        else:
            hosts, port = select(session, [text]), ""
        for host in hosts:
            found.setdefault(host, []).extend([port] if port else [])
    return found


def members(config: Config, names: Sequence[str]) -> tuple[str, ...]:
    """The hosts of a spread as they find each other, where they know nothing but what is written here."""
    said = [name for text in names for name in text.split(",")]
    return tuple(name if "=" in name else str(_member(config, config.host(name))) for name in said)


def _member(config: Config, host: Host) -> Member:
    if host.transport == "ssh":
        from llmctl.fleet.ssh.settings import login

        way = login(host, config)
        return Member(host.name, host.spread_address or way.address, way.user, way.port)
    if host.spread_address:
        return Member(host.name, host.spread_address, host.user, host.ssh_port or 22)
    raise UsageError(
        f"{host.name} is this machine, and the other hosts do not know where that is",
        hint=f'in [hosts.{host.name}] of hosts.toml: spread_address = "ADDRESS"',
    )


def rows(reach: Reach, host: Host, ports: Sequence[str] = ()) -> tuple[list[dict[str, Any]], str]:
    """The rows of `status` of a host, and its version of llmctl; raises why there are none."""
    found, _, version = told(reach, host, ports)
    return found, version


def told(
    reach: Reach, host: Host, ports: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:  # fmt: skip
    """`rows`, and between them the shares that the host computes of models in slots of others."""
    from llmctl.cli import status

    def here(session: Session) -> Answer:
        return status.here(ports, host.name, session.home)

    reply = reach.call(host, ["status", *ports], here, timeout=LOOK, any_version=True)
    said = reply.value()
    return [status.row(host.name, found) for found in said.get("slots", ())], said.get("shares") or [], reply.version


def slots(data: Mapping[str, Any]) -> list[ProfileSlot]:
    """What `host slots` answered."""
    found = [profile_slot_of(slot) for slot in data["slots"]]
    return [replace(slot, spread=tuple(text.partition("=")[0] for text in slot.spread)) for slot in found]


# ── what comes from another llmctl ──────────────────────────────────────────────────────────────────────────────────

_SLOT = re.compile(r"\bllmctl (load|swap|unload|restart|disable|enable|logs|ask|status|health) (\d+)\b")
_NOUN = re.compile(r"\bllmctl (?:pull|convert|models|jobs|keys|profile)\b[^·(;,]*[^·(;,\s]")


def typed_here(hint: str | None, host: str) -> str | None:
    """The hint of a host as it must be typed here: with its name."""
    if hint is None:
        return None
    return _NOUN.sub(rf"\g<0> --host {host}", _SLOT.sub(rf"llmctl \1 {host}:\2", hint))


def side_by_side(session: Session) -> AbstractContextManager[OnEvent]:
    """Gives the `on_event` for work on several hosts at once: plain lines, or lines of JSON."""
    from llmctl import progress

    return nullcontext(_Plain()) if not session.json else progress.shown(True)


class _Plain:
    """Lines of progress of several hosts, each as if it were alone."""

    def __init__(self) -> None:
        self.lines: dict[str, OnEvent] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        from llmctl.progress import Lines

        self.lines.setdefault(str(event.get("host")), Lines())(dict(event))


def tagged(on_event: OnEvent, host: str) -> OnEvent:
    """Shows the events of one host among others."""

    def show(event: Mapping[str, Any]) -> None:
        key = "message" if event.get("event") == "note" else "stage"
        text = str(event.get(key))  # a verb that goes over hosts itself has named this one already
        on_event({**event, "host": host, key: text if text.startswith(f"{host}: ") else f"{host}: {text}"})

    return show


def sound(on_event: OnEvent | None) -> OnEvent | None:
    """Passes only what `llmctl.progress` can show: another version may say more, and a broken one anything."""
    if on_event is None:
        return None
    shown = on_event

    def check(event: dict[str, Any]) -> None:
        kind, stage, message = (event.get(key) for key in ("event", "stage", "message"))
        if kind == "note" and isinstance(message, str):
            shown({"event": "note", "message": message})
        elif kind == "stage" and isinstance(stage, str):
            numbers = {key: event.get(key) for key in ("done", "total", "elapsed", "eta", "speed")}
            known = {key: value for key, value in numbers.items() if isinstance(value, int | float)}
            usual = {"done": 0, "total": 0, "elapsed": 0.0, "eta": None}
            shown({**usual, **known, "event": "stage", "stage": stage, "parts": _parts(event.get("parts"))})

    return check


def _parts(found: Any) -> dict[str, list[int | float]]:
    """{name: [done, total]}, what is no such thing left out."""
    items = found.items() if isinstance(found, dict) else ()
    return {
        str(name): part
        for name, part in items
        if isinstance(part, list) and len(part) == 2 and all(isinstance(number, int | float) for number in part)
    }
