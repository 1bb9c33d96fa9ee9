"""What a login to a host consists of: settled from its entry in hosts.toml and from the ssh configuration of the user.

The entry's own values win over ~/.ssh/config. No value of an entry becomes an option or a command: addresses and users
that could are refused here, before anything is opened.
"""

from __future__ import annotations

import getpass
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.config import Config, Host
from llmctl.errors import ConfigError
from llmctl.fleet.ssh import config as ssh_config

MOST_HOPS = 8
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_BAD_USER = re.compile(r"""^-|[\s'`"$;&<>|(){}@\x00-\x1f\x7f]|\\$|^$""")
_HOP = re.compile(r"(?:ssh://)?(?:(?P<user>.*)@)?(?:\[(?P<v6>[^]]*)]|(?P<name>[^:]*))(?::(?P<port>\d{1,5}))?/?", re.S)


@dataclass(frozen=True)
class Login:
    """One ssh server and how to log in there; `of` is the host of hosts.toml that it belongs to.

    `known_as` is its name in known_hosts files, `known_files` are those of the ssh configuration.
    `through` is the login that it is reached over, `command` a ProxyCommand of the user's ssh configuration.
    """

    name: str
    of: str
    address: str
    port: int
    user: str
    known_as: str
    known_files: tuple[Path, ...] = ()
    identities: tuple[Path, ...] = ()
    agent: bool = True
    through: Login | None = None
    command: str | None = None

    @property
    def where(self) -> str:
        """user@address, with the port where it is not 22."""
        return f"{self.user}@{self.address}" + ("" if self.port == 22 else f":{self.port}")


@dataclass(frozen=True)
class _Place:
    """An address with what was said beside it."""

    address: str
    user: str | None = None
    port: int | None = None
    identity: Path | None = None
    gateway: str | None = None


def login(host: Host, config: Config) -> Login:
    """How to log in to a host; ConfigError when its entry or the ssh configuration cannot be used."""
    return _Logins(host.name, config, ssh_config.read()).to(_place(host), (host.name,))


def _place(host: Host) -> _Place:
    if host.transport != "ssh" or not host.address:
        raise _mistake(host.name, f"{host.name} is not reached by ssh")
    return _Place(host.address, host.user, host.ssh_port, host.identity, host.gateway)


@dataclass(frozen=True)
class _Logins:
    """Settles logins for one host of the configuration."""

    name: str
    config: Config
    ssh: Any

    def to(self, place: _Place, path: tuple[str, ...], through: Login | None = None) -> Login:
        """The login of a place. `path` are the names on the way to it, the host's own first."""
        if len(path) > MOST_HOPS:
            raise _mistake(self.name, f"too many gateways: {' → '.join(path)}")
        said = ssh_config.lookup(self.ssh, self._address(place.address), place.user, place.port)
        address = self._address(said["hostname"])
        port = place.port or int(said.get("port", 22))
        jumps = said.get("proxyjump", "none")
        command = None
        if place.gateway:
            through = self._gateway(place.gateway, path)
        elif through is None and jumps.lower() != "none":
            for jump in jumps.split(","):
                through = self.to(self._hop(jump), (*path, jump), through)
        elif through is None:
            command = said.get("proxycommand")
        return Login(
            name=path[-1],
            of=next(name for name in reversed(path) if name in self.config.hosts or name == self.name),
            address=address,
            port=port,
            user=self._user(place.user or said.get("user") or getpass.getuser()),
            known_as=said.get("hostkeyalias") or known_name(address, port),
            known_files=ssh_config.known_files(said),
            identities=self._identities(place.identity, said.get("identityfile", ())),
            agent=said.get("identityagent", "").lower() != "none",
            through=through,
            command=command,
        )

    def _gateway(self, gateway: str, path: tuple[str, ...]) -> Login:
        if gateway in path:
            raise _mistake(self.name, f"its gateways go in a circle: {' → '.join([*path, gateway])}")
        known = self.config.hosts.get(gateway)
        return self.to(_place(known) if known else self._hop(gateway), (*path, gateway))

    def _hop(self, text: str) -> _Place:
        found = _HOP.fullmatch(text.strip())
        if not found:
            raise _mistake(self.name, f"{text!r} is no gateway: type the name of a host, or [user@]address[:port]")
        port = int(found["port"]) if found["port"] else None
        return _Place(found["v6"] or found["name"], self._user(found["user"]) if found["user"] else None, port)

    def _address(self, address: str) -> str:
        if not _NAME.fullmatch(address):
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise _mistake(self.name, f"{address[:140]!r} is no address: a name or an IP address is one") from None
        return address

    def _user(self, user: str) -> str:
        if _BAD_USER.search(user):
            raise _mistake(self.name, f"{user[:140]!r} is no user name")
        return user

    def _identities(self, own: Path | None, others: list[str]) -> tuple[Path, ...]:
        if own and not own.is_file():
            raise _mistake(self.name, f"there is no key {own}")
        found = [path for path in map(Path, others) if path.is_file()]
        return tuple(dict.fromkeys([own, *found] if own else found))


def known_name(address: str, port: int) -> str:
    """How known_hosts files call a server."""
    return address.lower() if port == 22 else f"[{address.lower()}]:{port}"


def _mistake(name: str, message: str) -> ConfigError:
    return ConfigError(f"host {name}: {message}", hint=f"correct [hosts.{name}] in hosts.toml", host=name)
