"""Hosts of one machine, each in a network namespace of its own, on one line: real ssh and real ports between them.

They have this machine's files, packages and memory; a home folder, keys and a network are their own. A test reaches
one through `Apart.inside` (commands) and `Apart.clients` (threads).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmctl.processes import start_time
from tests.testbed.machines import _remove, _sweep
from tests.testbed.sshd import SSHD, SshHost, end_slots, make_key

CLONE_NEWNET = 0x40000000
_count = itertools.count(500)  # `machines` counts from 0
_SSH = "Host *\n  IdentityFile {key}\n  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n"


@dataclass
class Apart:
    """The two hosts; `folder` holds all that they are."""

    name: str
    folder: Path
    hosts: list[SshHost]

    def netns(self, host: SshHost) -> str:
        return f"{self.name}-{host.name}"

    def inside(self, host: SshHost) -> list[str]:
        """What to put before a command line so that it runs in a host's network."""
        return ["ip", "netns", "exec", self.netns(host)]

    def clients(self, host: SshHost, threads: int) -> ThreadPoolExecutor:
        """Threads whose sockets are in a host's network."""
        return ThreadPoolExecutor(threads, initializer=enter, initargs=(self.netns(host),))

    def cut(self, host: SshHost) -> None:
        """Nothing passes between the hosts any more, and nobody is told."""
        self._rules(host, "-I")

    def heal(self, host: SshHost) -> None:
        """Undo `cut`."""
        self._rules(host, "-D")

    def _rules(self, host: SshHost, change: str) -> None:
        for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
            do(*self.inside(host), "iptables", change, chain, way, "eth0", "-j", "DROP")


def do(*argv: str) -> None:
    ran = subprocess.run(argv, capture_output=True, text=True)
    assert ran.returncode == 0, f"{argv}: {ran.stderr or ran.stdout}"


def enter(netns: str) -> None:
    """Move this thread into a network namespace."""
    fd = os.open(f"/run/netns/{netns}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)


@contextlib.contextmanager
def apart() -> Iterator[Apart]:
    """Two running hosts, h1 and h2, which know each other's keys; skipped where they cannot be."""
    missing = [
        name for name in ("ip", "iptables", "ssh") if not shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    ]
    if os.getuid() != 0 or not SSHD or missing:
        pytest.skip(f"needs root, an ssh server, ip and iptables: {missing or os.getuid() or 'no sshd'}")
    _sweep()
    name = f"llm-{os.getpid()}-{start_time(os.getpid())}-{next(_count)}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700)
    made = Apart(name, folder, [])
    try:
        key = make_key(folder / "id")
        config, known = folder / "ssh_config", folder / "known_hosts"
        config.write_text(_SSH.format(key=key, known=known))
        for number in (1, 2):
            host = SshHost(f"h{number}", folder / f"h{number}", key, address=f"10.79.0.{number}")
            mount = f'mount --bind {config} /etc/ssh/ssh_config && exec "$@"'
            host.inside = [*made.inside(host), "sh", "-c", mount, "sh"]
            made.hosts.append(host)
            do("ip", "netns", "add", made.netns(host))
            do("ip", "-n", made.netns(host), "link", "set", "lo", "up")
        one, two = (made.netns(host) for host in made.hosts)
        do("ip", "-n", one, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", two)
        for host in made.hosts:
            do("ip", "-n", made.netns(host), "addr", "add", f"{host.address}/24", "dev", "eth0")
            do("ip", "-n", made.netns(host), "link", "set", "eth0", "up")
        for host in made.hosts:
            host.start()
            host.install()
        known.write_text("".join(host.known() for host in made.hosts))
        yield made
    finally:
        for host in made.hosts:
            host.stop()
        end_slots(host.home / ".llmctl" for host in made.hosts)
        _remove(name)
