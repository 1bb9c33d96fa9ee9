"""What one command line stands on: the configuration, the state folder, the host and port it means, and its consent."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl import catalog, config, paths
from llmctl.catalog import Catalog
from llmctl.config import Config, Host
from llmctl.domain import EMPTY
from llmctl.errors import Refused, UsageError

if TYPE_CHECKING:
    from llmctl.slots.state import Launch


@dataclass(frozen=True)
class Target:
    """A slot's address, resolved."""

    host: Host
    port: int


@dataclass
class Session:
    """One invocation; commands get it as `ctx.obj`."""

    json: bool = False
    yes: bool = False
    config_dir: str | None = None

    @cached_property
    def home(self) -> Path:
        return paths.home()

    @cached_property
    def config(self) -> Config:
        return config.load(config.find(self.config_dir))

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog, with the models of this host that it does not name."""
        from llmctl.models import store

        known = catalog.load(self.config.dir)
        return store.with_local(known, self.models_dir)

    @cached_property
    def models_dir(self) -> Path:
        """Where the models of the local host lie."""
        local = (host for host in self.config.hosts.values() if host.transport == "local")
        return next(local, Host("local")).models(self.home)

    @cached_property
    def folder(self) -> Path:
        """The folder of hosts.toml, for verbs that write there."""
        if self.config.dir is None:
            raise UsageError("there is no configuration here", hint="llmctl init")
        return self.config.dir

    def host(self, name: str | None = None) -> Host:
        """A host that this version can work on."""
        host = self.config.host(name)
        if host.transport != "local":
            raise Refused(
                f"{host.name} is reached by ssh, and this version of llmctl works on the local host only",
                hint=f"run llmctl on {host.name} itself",
                host=host.name,
            )
        return host

    def target(self, text: str, auto: bool = False) -> Target:
        """The slot that PORT, HOST:PORT or (with `auto`) `auto` means."""
        name, _, port = text.rpartition(":")
        host = self.host(name or None)
        if port == "auto" and auto:
            return Target(host, self.free_port(host))
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError(f"{text[:140]!r} is not a port", hint=f"type 8101{', auto' if auto else ''} or HOST:8101")
        return Target(host, int(port))

    def free_port(self, host: Host, taken: Iterable[int] = ()) -> int:
        """The lowest port of the host's range that has no model and no foreign listener."""
        from llmctl.slots import verbs

        slots = {slot.port: slot for slot in verbs.status(self.home)}
        low, high = host.ports
        for port in range(low, high + 1):
            slot = slots.get(port)
            if port in taken or (slot and slot.state != EMPTY):
                continue
            if (slot and slot.runner_pid) or _bindable(host.bind, port):
                return port
        raise Refused(f"no free port in {low}-{high} on {host.name}", hint="llmctl status", host=host.name)

    def launch(self, host: Host) -> Launch:
        """How a slot server of `host` starts."""
        from llmctl.slots.resolve import backend_of
        from llmctl.slots.state import Launch

        return Launch(bind=host.bind, memory_budget=host.memory_budget, backend=backend_of(host))

    def confirm(self, question: str) -> None:
        """Go on only with a yes: `--yes`, or typed on a terminal."""
        if self.yes:
            return
        if self.json or not sys.stdin.isatty():
            raise Refused(f"{question} Nothing was changed.", hint="add --yes")
        import typer

        if not typer.confirm(question, err=True):
            raise Refused("Nothing was changed.")

    def progress(self) -> AbstractContextManager[Any]:
        """Gives the `on_event` that shows how a load goes on, on stderr."""
        from llmctl import progress

        return progress.shown(self.json)


def _bindable(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
