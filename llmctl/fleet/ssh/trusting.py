"""Coming to trust a host's key: what it shows, beside what is trusted now; its gateways come first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmctl.config import Config, Host
from llmctl.errors import Refused, UsageError
from llmctl.fleet.ssh import known_hosts
from llmctl.fleet.ssh import settings as ssh_settings
from llmctl.fleet.ssh.known_hosts import Key
from llmctl.fleet.ssh.settings import Login


@dataclass(frozen=True)
class Shown:
    """The key that a server shows now. `before` are the fingerprints that were trusted for it; `trusted`: it is one."""

    name: str
    known_as: str
    key: Key
    before: tuple[str, ...]
    trusted: bool


def look(host: Host, config: Config, home: Path) -> Iterator[Shown]:
    """What the gateways of a host and the host show, one after the other: each must be trusted before the next.

    Raises Unreachable or one of its kinds; Refused for a key that a known_hosts file marks as revoked.
    """
    from llmctl.fleet.ssh.link import host_key

    if host.transport == "local":
        raise Refused(f"{host.name} is this machine: there is no key to trust", host=host.name)
    own = home / known_hosts.FILE
    for login in _way(ssh_settings.login(host, config)):
        key = host_key(login, own)
        known = known_hosts.trusted(login.known_as, own, login.known_files)
        if key in known.revoked:
            raise Refused(f"{login.name} shows {key.fingerprint}, which is marked as revoked", host=host.name)
        yield Shown(login.name, login.known_as, key, tuple(key.fingerprint for key in known.keys), key in known.keys)


def trust(shown: Shown, home: Path) -> None:
    """From now on this key, and no other, is the server's."""
    known_hosts.write(home / known_hosts.FILE, shown.known_as, shown.key)


def check(shown: Shown, fingerprint: str) -> None:
    """Refused when the key is not the one with this fingerprint."""
    kind, _, digest = fingerprint.partition(":")
    if kind.upper() != "SHA256" or not digest:
        raise UsageError(f"{fingerprint[:140]!r} is no fingerprint", hint="ssh-keygen -l prints one as SHA256:…")
    if f"SHA256:{digest.rstrip('=')}" != shown.key.fingerprint:
        raise Refused(
            f"{shown.name} shows {shown.key.type} {shown.key.fingerprint}, not {fingerprint}; nothing was changed",
            hint="it may have a key of another type; if not, something stands between you and it",
            details={"type": shown.key.type, "fingerprint": shown.key.fingerprint, "expected": fingerprint},
        )


def _way(login: Login) -> Iterator[Login]:
    if login.through:
        yield from _way(login.through)
    yield login
