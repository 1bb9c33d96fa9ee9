"""The way to a host: ssh, or this machine."""

from __future__ import annotations

from pathlib import Path

from llmctl.config import Config, Host
from llmctl.fleet.transport import Transport


def connect(host: Host, config: Config, home: Path) -> Transport:
    """The transport of a host, not yet connected; close it. `home` is our state folder, with known_hosts in it."""
    if host.transport == "local":
        from llmctl.fleet.local import LocalTransport

        return LocalTransport(host)
    from llmctl.fleet.ssh import known_hosts, settings
    from llmctl.fleet.ssh.transport import SshTransport

    return SshTransport(host, settings.login(host, config), home / known_hosts.FILE)
