"""Hosts over ssh as the tests of the transport use them: a configuration, a state folder, and transports that close."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmctl import config
from llmctl.fleet.opening import connect
from llmctl.fleet.transport import Transport
from tests.testbed.sshd import SshHost


@dataclass
class Operator:
    """One who reaches hosts: `folder` holds hosts.toml, a home with .ssh, and the state folder with known_hosts."""

    folder: Path
    entries: dict[str, str] = field(default_factory=dict)
    open: list[Transport] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def state(self) -> Path:
        return self.home / ".llmctl"

    @property
    def known_hosts(self) -> Path:
        return self.state / "known_hosts"

    def prepare(self) -> Operator:
        self.state.mkdir(parents=True)
        (self.home / ".ssh").mkdir(mode=0o700)
        return self

    def add(self, host: SshHost, *, trust: bool = True, port: int | None = None, **more: str) -> None:
        """Put a host into hosts.toml, reached at `port` where it is not its own, and trust its key."""
        port = port or host.port
        self.entries[host.name] = host.entry(**{"ssh_port": str(port), **more})
        if trust:
            with open(self.known_hosts, "a") as file:
                file.write(host.known().replace(f":{host.port} ", f":{port} "))

    def transport(self, name: str) -> Transport:
        (self.folder / "hosts.toml").write_text("\n".join(self.entries.values()))
        loaded = config.load(self.folder)
        transport = connect(loaded.host(name), loaded, self.state)
        self.open.append(transport)
        return transport

    def close(self) -> None:
        for transport in self.open:
            transport.close()


@contextlib.contextmanager
def operator(folder: Path, monkeypatch: pytest.MonkeyPatch, **env: Any) -> Iterator[Operator]:
    """Somebody with an empty home, no agent, and no configuration yet."""
    one = Operator(folder).prepare()
    monkeypatch.setenv("HOME", str(one.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    try:
        yield one
    finally:
        one.close()
