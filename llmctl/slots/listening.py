"""Who listens on a port of this machine: the process, its words, its folder, and its variables by name (Linux)."""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import shutil
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LISTEN = "0A"  # TCP_LISTEN of the kernel's include/net/tcp_states.h


@dataclass(frozen=True)
class Listener:
    """A listening socket. `address` is one that reaches it from here. Without `pid` its process is not ours to see.

    `argv` begins with the program's whole path; `env` are all its variables.
    """

    port: int
    address: str
    pid: int | None = None
    user: str | None = None
    argv: tuple[str, ...] = ()
    folder: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def mine(self) -> bool:
        """It runs as the user that asks, who may end it."""
        return self.pid is not None and self.user == pwd.getpwuid(os.getuid()).pw_name


def find(port: int) -> Listener | None:
    """What listens on `port`; None when nothing does."""
    found = dict(_sockets(port))
    if not found:
        return Listener(port, "127.0.0.1") if sys.platform != "linux" and _answers(port) else None
    address = _reachable(set(found.values()))
    pid = _owner(set(found))
    if pid is None:
        return Listener(port, address)
    with suppress(OSError):
        folder = Path(f"/proc/{pid}/cwd").readlink()
        env = _variables(Path(f"/proc/{pid}/environ").read_bytes())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
        user = pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name
        argv = (_program(pid, words[0], folder, env.get("PATH")), *words[1:]) if words else ()
        return Listener(port, address, pid, user, argv, str(folder), env)
    return Listener(port, address)


def _sockets(port: int) -> Iterator[tuple[str, str]]:
    """(inode, address) of the sockets that listen on `port`."""
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                host, _, number = fields[1].partition(":")
                if fields[3] == LISTEN and int(number, 16) == port:
                    yield fields[9], _address(host)


def _address(text: str) -> str:
    """The kernel's hexadecimal: words of four bytes in the machine's own order."""
    words = struct.unpack(f">{len(text) // 8}I", bytes.fromhex(text))
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)


def _reachable(addresses: set[str]) -> str:
    """The loopback where it listens there, or everywhere; else the one address it has."""
    parsed = [ipaddress.ip_address(address) for address in sorted(addresses)]
    if any(one.version == 4 and (one.is_unspecified or one.is_loopback) for one in parsed):
        return "127.0.0.1"
    if any(one.is_unspecified for one in parsed):
        return "127.0.0.1"  # a socket for IPv6 that takes IPv4 too, as they do unless told otherwise
    return str(parsed[0])


def _owner(inodes: set[str]) -> int | None:
    """The process that has such a socket; of several the one that the others came from."""
    links = {f"socket:[{inode}]" for inode in inodes}
    holders = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            if any(_link(entry) in links for entry in folder.iterdir()):
                holders.add(int(folder.parent.name))
    return next((pid for pid in sorted(holders) if _parent(pid) not in holders), None)


def _link(path: Path) -> str:
    with suppress(OSError):
        return str(path.readlink())
    return ""


def _parent(pid: int) -> int:
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(stat[stat.rindex(")") + 2 :].split()[1])
    return 0


def _program(pid: int, word: str, folder: Path, path: str | None) -> str:
    """The whole path of a program. The kernel's own link is the last resort: it forgets virtual environments."""
    if "/" in word:
        return str(folder / word)
    found = shutil.which(word, path=path)
    return found or _link(Path(f"/proc/{pid}/exe")) or word


def _variables(data: bytes) -> dict[str, str]:
    rows = (row.decode("utf-8", "surrogateescape") for row in data.split(b"\0"))
    return dict(re.match(r"([^=]*)=(.*)", row, re.DOTALL).groups() for row in rows if "=" in row)  # type: ignore[union-attr,misc]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
