"""What one command line stands on: the configuration, the state folder, the host and port it means, and its consent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llmctl import catalog, config, paths
from llmctl.catalog import Catalog
from llmctl.config import Config, Host
from llmctl.errors import ConsentNeeded, Refused, UsageError

if TYPE_CHECKING:
    from llmctl.slots.state import Launch
    from llmctl.slots.wanted import Place

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Target:
    """A slot's address, resolved."""

    host: Host
    port: int


@dataclass
class Session:
    """One invocation; commands get it as `ctx.obj`.

    `chosen` is the host of `--host`. `called` is set when another llmctl asks: this machine is all there is, and has
    that name. `on_event` takes the progress of work whose caller shows it.
    """

    json: bool = False
    yes: bool = False
    config_dir: str | None = None
    called: str | None = None
    chosen: str | None = None
    on_event: OnEvent | None = None

    @cached_property
    def home(self) -> Path:
        return paths.home()

    @cached_property
    def config(self) -> Config:
        found = config.load(config.find(self.config_dir))
        if self.called is None:
            return found
        mine = replace(_local(found) or Host("local"), name=self.called)
        return Config(found.dir, {mine.name: mine}, mine.name)

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog, with the models of this machine that it does not name."""
        from llmctl.models import store

        known = catalog.load(self.config.dir)
        return store.with_local(known, self.models_dir)

    def forget_models(self) -> None:
        """Read the catalog anew when it is asked for again: a model has come."""
        self.__dict__.pop("catalog", None)

    @cached_property
    def models_dir(self) -> Path:
        """Where the models of this machine lie."""
        return (_local(self.config, self.chosen) or Host("local")).models(self.home)

    @cached_property
    def folder(self) -> Path:
        """The folder of hosts.toml, for verbs that write there."""
        if self.config.dir is None:
            raise UsageError("there is no configuration here", hint="llmctl init")
        return self.config.dir

    def host(self, name: str | None = None) -> Host:
        """A host of this machine; without a name the one of `--host`, else the default one."""
        host = self.config.host(name or self.chosen)
        return host if host.transport == "local" else self._elsewhere(host)

    def here(self) -> Host:
        """This machine, whatever the default host is: for verbs that have no --host."""
        return _local(self.config) or self._elsewhere(self.config.host())

    def _elsewhere(self, host: Host) -> NoReturn:
        raise Refused(
            f"this works on the machine that it is typed on, and {host.name} is another",
            hint=f'run it on {host.name} itself, or add a host with transport = "local" to hosts.toml',
            host=host.name,
        )

    def place(self) -> Place:
        """This machine, for what works on all of its slots."""
        from llmctl.slots.wanted import Place

        return Place(self.host(), self.home, self.catalog)

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
        from llmctl.slots import ports

        return ports.free_port(self.home, host, taken)

    def launch(self, host: Host) -> Launch:
        """How a slot server of `host` starts."""
        from llmctl.slots.resolve import launch_of

        return launch_of(host)

    def tell(self, text: str) -> None:
        """Show what a question is about, where somebody may answer it."""
        if not self.json and sys.stdin.isatty():
            print(text, file=sys.stderr)

    def confirm(self, question: str) -> None:
        """Go on only with a yes: `--yes`, or typed on a terminal."""
        if self.yes:
            return
        if self.json or not sys.stdin.isatty():
            raise ConsentNeeded(f"{question} Nothing was changed.", hint="add --yes", details={"question": question})
        import typer

        if not typer.confirm(question, err=True):
            raise Refused("Nothing was changed.")

    def progress(self, plain: bool = False) -> AbstractContextManager[OnEvent]:
        """Gives the `on_event` that shows how a load goes on, on stderr; `plain`: without bars."""
        if self.on_event:
            return nullcontext(self.on_event)
        from llmctl import progress

        return progress.shown(self.json, plain)


def _local(found: Config, name: str | None = None) -> Host | None:
    """The host of this machine that is called `name`; without one, or where that is another machine, the first."""
    local = [host for host in found.hosts.values() if host.transport == "local"]
    return next((host for host in local if host.name == name), local[0] if local else None)
