"""`llmctl status`: the slots of all hosts. Starts without Typer (see `__main__.PLAIN`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl import __version__
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, NotDeployed, UnknownName, Unreachable, UsageError, VersionSkew

if TYPE_CHECKING:
    from llmctl.cli.reach import Reach
    from llmctl.cli.session import Session
    from llmctl.config import Host

OK, UNKNOWN, NOT_DEPLOYED, SKEW = "ok", "unknown", "not deployed", "skew"


def answer(words: Sequence[str], as_host: str | None = None) -> Answer:
    """The answer to the words of a plain command line: PORT, HOST:PORT and --host HOST."""
    from llmctl import paths

    if as_host is not None and not any(word.startswith("-") for word in words):
        return here(words, as_host, paths.home())
    from llmctl.cli.session import Session

    ports, patterns = [], []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option != "--host":
            ports.append(word)
        else:
            patterns.append(value if equals else next(rest, ""))
    return of_fleet(Session(json=True, called=as_host), ports, patterns)


def here(ports: Sequence[str], host: str, home: Path) -> Answer:
    """The slots of this machine, or those of `ports`."""
    from llmctl.slots.status import shares, status

    wanted = [int(port) for port in ports if port.isascii() and port.isdigit()]
    if len(wanted) < len(ports):
        raise UsageError(f"{' '.join(ports)[:140]!r} are not all ports", hint="type 8101 or HOST:8101")
    slots = status(home, wanted or None, host)
    return Answer({"slots": [asdict(slot) for slot in slots], "shares": [] if wanted else shares(home)})


def row(host: str, found: Any) -> dict[str, Any]:
    """A row of another llmctl, as this one has them."""
    from llmctl.slots import status

    return asdict(status.row(host, {"port": 0, **found}))


def of_fleet(session: Session, ports: Sequence[str], patterns: Sequence[str], reach: Reach | None = None) -> Answer:
    """All slots, or those of `ports`, of the hosts that are meant; `data.slots` as in decisions.md.

    `data.shares[]` are the shares that hosts compute of models in slots of others.

    `data.hosts[]` says of each host whether it is OK, UNKNOWN, NOT_DEPLOYED or of another version (SKEW), and why.
    """
    from llmctl.cli import reach as reaching
    from llmctl.fleet import call, fanout, selection

    if reach is None:
        with reaching.Reach(session) as opened:
            return of_fleet(session, ports, patterns, opened)
    numbers: dict[str, list[str]] = {}
    for text in ports:
        hosts, port = reaching.slots_of(session, text, patterns)
        for host in hosts:
            numbers.setdefault(host.name, []).append(port)
    known = session.config.hosts
    meant = [known[name] for name in numbers] if ports else selection.select(session.config, patterns)
    exact = [] if patterns else numbers

    def look(host: Host) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
        return reaching.told(reach, host, numbers[host.name] if host.name in exact else ())

    outcomes = fanout.over(meant, look, len(meant))
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if len(errors) == len(meant) == 1 and errors[0].exit_code == UsageError.exit_code:
        raise errors[0]
    rows, shares, states = [], [], []
    for outcome in outcomes:
        found, computed, version = outcome.value or ([], [], None)
        wanted = numbers.get(outcome.host.name)
        rows += [row for row in found if not wanted or str(row["port"]) in wanted]
        shares += [{**share, "host": outcome.host.name} for share in computed if not ports]
        error = outcome.error
        if version not in (None, __version__):
            error = call.skew(outcome.host.name, str(version))
            errors.append(error)
        states.append(state(outcome.host.name, version, error))
    if ports and not rows and not errors:
        raise UnknownName(f"port {', '.join(ports)} is no slot on any of these hosts", hint="llmctl status")
    return Answer({"slots": rows, "shares": shares, "hosts": states}, exit_code(errors, len(meant)), tuple(errors))


def exit_code(errors: Sequence[LlmctlError], hosts: int) -> int:
    """0 all is known · 4 nothing was reached · 3 some of it is not known."""
    lost = len(errors) == hosts and all(isinstance(error, Unreachable) for error in errors)
    return Unreachable.exit_code if errors and lost else 3 if errors else 0


def state(host: str, version: str | None, error: LlmctlError | None) -> dict[str, Any]:
    """The JSON of a host: whether it answered, and why not."""
    kinds = {NotDeployed: NOT_DEPLOYED, VersionSkew: SKEW, UnknownName: OK}
    found = kinds.get(type(error), UNKNOWN) if error else OK
    return {"host": host, "state": found, "version": version, "why": error.message if error else None}
