"""How replicas are reached: directly, or through the one ssh connection that is kept to their host."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llmctl import config
from llmctl.errors import ConfigError
from llmctl.gateway import hosts
from llmctl.gateway.balance import Load
from llmctl.gateway.registry import Replica
from llmctl.gateway.replicas import Live
from llmctl.gateway.tunnel import Tunnel
from llmctl.gateway.upstream import Pool, Upstream


class Ways:
    """The ways to all replicas; `home` is the state folder that `handles sync` wrote to."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._tunnels: dict[str, Tunnel] = {}
        self._pools: dict[str, weakref.WeakSet[Pool]] = {}  # through each host's tunnel

    def live(self, replica: Replica) -> Live:
        """A replica as one that was not asked yet."""
        load = Load(replica.where, warm=not replica.on_demand)  # until it is probed
        if replica.address is None:
            tunnel = self._tunnel(replica.host)
            pools = self._pools.setdefault(replica.host, weakref.WeakSet())
            pool = Pool(lambda made: _through(tunnel, replica.port, made), lambda: tunnel.full, lambda: _spare(pools))
            pools.add(pool)
        else:
            pool = Pool(lambda made: _directly(replica.address or "", made))
        return Live(replica, pool, self.head(replica), load)

    def head(self, replica: Replica) -> bytes:
        """What a request says to this replica alone: Host, and the key of its host where that wants one."""
        host = replica.address.rpartition(":")[0] if replica.address else "127.0.0.1"
        head = b"host: %s:%d" % (host.encode(), replica.port)
        key = hosts.read(self.home).get("keys", {}).get(replica.host)
        return head + b"\r\nauthorization: Bearer " + str(key).encode() if key else head

    def config(self) -> Path | None:
        """The folder of hosts.toml."""
        folder = hosts.read(self.home).get("config")
        return Path(folder) if folder else None

    def close(self) -> None:
        """End all ssh connections."""
        for tunnel in self._tunnels.values():
            tunnel.close()
        self._tunnels.clear()

    def _tunnel(self, host: str) -> Tunnel:
        return self._tunnels.setdefault(host, Tunnel(host, lambda: self._opened(host)))

    def _opened(self, name: str) -> Any:
        """A new ssh connection, to the host as hosts.toml has it now."""
        from llmctl.fleet.ssh import known_hosts, link, settings

        folder = self.config()
        if folder is None:
            raise ConfigError(f"nothing says how {name} is reached by ssh", hint="llmctl handles sync")
        known = config.load(folder)
        return link.open_link(settings.login(known.host(name), known), self.home / known_hosts.FILE)


def _spare(pools: Iterable[Pool]) -> bool:
    """Close the connection that rests longest; whether there was one."""
    found = min(((pool.resting, id(pool), pool) for pool in pools if pool.resting is not None), default=None)
    if found:
        found[-1].drop()
    return found is not None


async def _directly(address: str, made: Callable[[], Upstream]) -> tuple[Any, Upstream]:
    host, _, port = address.rpartition(":")
    return await asyncio.get_running_loop().create_connection(made, host.strip("[]"), int(port))


async def _through(tunnel: Tunnel, port: int, made: Callable[[], Upstream]) -> tuple[Any, Upstream]:
    sock = await tunnel.dial(port)
    return await asyncio.get_running_loop().create_connection(made, sock=sock)
