"""Which hosts are meant: names, globs over names, and `@label`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from llmctl.config import Config, Host
from llmctl.errors import UnknownName, UsageError, nearest

_GLOB = frozenset("*?[")


def select(config: Config, patterns: Sequence[str]) -> list[Host]:
    """The hosts that any of `patterns` means, each once, in the order of hosts.toml; without patterns all of them.

    UnknownName for a name or label that is not there, UsageError for a glob that meets no host: a mistyped pattern
    beside a good one is never passed over.
    """
    hosts = list(config.hosts.values())
    if not patterns:
        return hosts
    meant = {host.name for pattern in patterns for host in _meant(hosts, pattern)}
    return [host for host in hosts if host.name in meant]


def _meant(hosts: Sequence[Host], pattern: str) -> list[Host]:
    names = [host.name for host in hosts]
    if pattern.startswith("@"):
        labels = sorted({label for host in hosts for label in host.labels})
        found = [host for host in hosts if pattern[1:] in host.labels]
        return found or _unknown("label", pattern[1:], labels, "@")
    if _GLOB & set(pattern):
        found = [host for host in hosts if fnmatchcase(host.name, pattern)]
        if not found:
            raise UsageError(f"no host is called {pattern[:140]!r}", hint=f"hosts: {', '.join(names)}")
        return found
    found = [host for host in hosts if host.name == pattern]
    return found or _unknown("host", pattern, names, "")


def _unknown(what: str, name: str, known: Iterable[str], sign: str) -> list[Host]:
    known = list(known)
    close = nearest(name, known)
    there = ", ".join(sign + word for word in known) or "none"
    raise UnknownName(
        f"no {what} {name[:140]!r}", hint=f"did you mean '{sign}{close}'?" if close else f"{what}s: {there}"
    )
