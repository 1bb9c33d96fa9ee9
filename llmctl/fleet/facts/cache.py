"""The facts of hosts as they were last seen, kept on the operator's machine: LLMCTL_HOME/fleet/<host>.json."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from llmctl import files
from llmctl.config import Host
from llmctl.errors import StateError
from llmctl.fleet.facts import Facts


@dataclass(frozen=True)
class Seen:
    """Facts, and when they were read (epoch seconds of this machine)."""

    facts: Facts
    at: float

    def age(self, now: float) -> float:
        """Seconds, never less than 0."""
        return max(0.0, now - self.at)


def write(home: Path, host: Host, facts: Facts) -> Seen:
    """Keep what was seen just now."""
    return _put(home, host, Seen(facts, time.time()))


def released(home: Path, host: Host, release: str) -> None:
    """Keep that another release is in use there since it was seen ("": none)."""
    if seen := read(home, host):
        _put(home, host, Seen(replace(seen.facts, release=release), seen.at))


def read(home: Path, host: Host) -> Seen | None:
    """What was seen last; None when it never was, is not to be read, or was seen at another address."""
    try:
        data = files.read_json(_path(home, host))
        if data is None or data["place"] != _place(host):
            return None
        return Seen(Facts.from_dict(data["facts"]), float(data["at"]))
    except (StateError, KeyError, TypeError, ValueError, AttributeError):
        return None


def forget(home: Path, host: Host) -> None:
    """Remove what is kept of a host."""
    for suffix in (".json", ".bak", ".torn"):
        _path(home, host).with_suffix(suffix).unlink(missing_ok=True)


def _put(home: Path, host: Host, seen: Seen) -> Seen:
    files.write_json(_path(home, host), {"at": seen.at, "place": _place(host), "facts": seen.facts.to_dict()})
    return seen


def _path(home: Path, host: Host) -> Path:
    return home / "fleet" / f"{host.name}.json"


def _place(host: Host) -> list[str | int | None]:
    """What makes it the same machine and user, as far as hosts.toml says."""
    return [host.transport, host.address, host.user, host.ssh_port, host.gateway]
