"""One ssh connection: opened over its gateways with every host key checked, tried again where the server is too busy.

Imports paramiko: only what is imported at first use imports this.
"""

from __future__ import annotations

import contextlib
import logging
import random
import shlex
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.ssh_exception import SSHException

from llmctl.errors import LockedOut, Unreachable
from llmctl.fleet.ssh import failures, known_hosts
from llmctl.fleet.ssh.known_hosts import Key, Trusted
from llmctl.fleet.ssh.settings import Login
from llmctl.fleet.ssh.wire import Wire

CONNECT, HELLO, AUTH, CHANNEL = 5.0, 10.0, 15.0, 10.0
"""Seconds that a step may take: the TCP connection, the server's first line, the login, a channel."""
TRIES = 7
PING_EVERY, PING_WAIT = 8.0, 12.0
"""Seconds of silence before a ping, and for its answer: a dead connection is noticed within their sum twice at most."""
CALM = 2.0
"""Seconds after which paramiko's reader looks up from a silent connection. Its own 0.1 would have twenty connections
that are kept open take some percent of a core for nothing; what ends one wakes the reader anyway."""

# A login costs us 4 ms of CPU with the first three kinds of key exchange and 22 ms with the last three; AES-GCM seals
# and opens in one call where CTR needs a MAC as well (10% less CPU a byte). paramiko puts CTR, CBC and MD5 before it.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")
KEX = (
    "mlkem768x25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521", "diffie-hellman-group16-sha512", "diffie-hellman-group-exchange-sha256",
    "diffie-hellman-group14-sha256",
)  # fmt: skip

# Its reader thread logs tracebacks of what reaches us as errors anyway, and Python shows those without a handler.
for name in ("paramiko", "fabric", "invoke"):
    logging.getLogger(name).addHandler(logging.NullHandler())
    logging.getLogger(name).propagate = False


class Link:
    """A connection that is logged in; `lost` says that it went away."""

    def __init__(self, connection: fabric.Connection, way: Way) -> None:
        self.transport: paramiko.Transport = connection.transport
        self._connection, self._way = connection, way
        self._done = threading.Event()

    @property
    def lost(self) -> bool:
        return not self.transport.is_active()

    def watch(self) -> None:
        """From now on close the connection when nothing answers any more."""
        self._way.wire.settimeout(CALM)
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        self._done.set()
        self._way.wire.hang_up()
        self._connection.client.close()
        self._way.close()

    def _watch(self) -> None:
        while not self._done.wait(PING_EVERY) and not self.lost:
            asked = time.monotonic()
            if asked - self._way.wire.heard < PING_EVERY:
                continue
            # A thread of its own: with a full send buffer even asking would wait forever.
            ping = threading.Thread(target=self._ping, daemon=True)
            ping.start()
            ping.join(PING_WAIT)
            if self._way.wire.heard < asked and not self._done.is_set():
                self._way.wire.hang_up()
                self.transport.close()

    def _ping(self) -> None:
        """Ask for a channel of a kind that no server has; it is refused, and the refusal is heard."""
        with contextlib.suppress(SSHException, OSError, EOFError):
            self.transport.open_channel("ping@llmctl", timeout=PING_WAIT)


class Way:
    """How the bytes get there: by TCP, through a gateway, or through a ProxyCommand."""

    def __init__(self, login: Login, via: Link | None) -> None:
        self.via = via
        self.process: subprocess.Popen[bytes] | None = None
        if via:
            self.wire = Wire(_through(via, login))
        elif login.command:
            sock, self.process = _command(login)
            self.wire = Wire(sock)
        else:
            try:
                self.wire = Wire(socket.create_connection((login.address, login.port), CONNECT))
            except OSError as error:
                raise failures.of_tcp(error, login, CONNECT) from None

    def close(self) -> None:
        """End it, its gateway too."""
        self.leave()
        if self.via:
            self.via.close()

    def leave(self) -> None:
        """End it; its gateway stays."""
        self.wire.close()
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def open_link(login: Login, own: Path) -> Link:
    """Log in, over gateways first. `own` is llmctl's known_hosts file. Raises Unreachable or one of its kinds."""
    via = open_link(login.through, own) if login.through else None
    try:
        for left in reversed(range(TRIES)):
            try:
                return _log_in(login, own, via)
            except LockedOut:
                if not left:
                    raise
                time.sleep(random.uniform(0.5, 1.5) * min(2.0, 0.1 * 2 ** (TRIES - left)))
        raise AssertionError("unreachable")
    except BaseException:
        if via:
            via.close()
        raise


def host_key(login: Login, own: Path) -> Key:
    """The key that the server shows, not judged; its gateways' keys are."""
    with contextlib.ExitStack() as stack:
        via = open_link(login.through, own) if login.through else None
        if via:
            stack.callback(via.close)
        way = Way(login, via)
        stack.callback(way.leave)
        transport = _transport(way.wire, Trusted())
        stack.callback(transport.close)
        transport.banner_timeout = HELLO
        try:
            transport.start_client(timeout=2 * HELLO)
            return _key(transport.get_remote_server_key())
        except (SSHException, OSError, EOFError) as error:
            raise failures.of_login(error, login, greeted=False) from None


class _Judge(paramiko.MissingHostKeyPolicy):  # type: ignore[misc] # untyped
    """Refuses every host key but the trusted ones; the client itself knows none."""

    def __init__(self, login: Login, known: Trusted) -> None:
        self.login, self.known, self.passed = login, known, False

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        wrong = known_hosts.judge(self.login, _key(key), self.known)
        if wrong:
            raise wrong
        self.passed = True


def _log_in(login: Login, own: Path, via: Link | None) -> Link:
    known = known_hosts.trusted(login.known_as, own, login.known_files)
    judge = _Judge(login, known)
    way = Way(login, via)
    connection = fabric.Connection(
        login.address,
        user=login.user,
        port=login.port,
        config=fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig()),
        gateway=False,
        forward_agent=False,
        connect_timeout=int(2 * HELLO),
        connect_kwargs={
            "sock": way.wire,
            "banner_timeout": HELLO,
            "auth_timeout": AUTH,
            "channel_timeout": CHANNEL,
            "key_filename": [str(path) for path in login.identities],
            "allow_agent": login.agent,
            "transport_factory": lambda wire, **_: _transport(wire, known),
        },
    )
    connection.client.set_missing_host_key_policy(judge)
    try:
        connection.open()
    except BaseException as error:
        connection.client.close()
        way.leave()
        if isinstance(error, Exception):
            raise failures.of_login(error, login, judge.passed) from None
        raise
    return Link(connection, way)


def _transport(wire: Wire, known: Trusted) -> paramiko.Transport:
    """An ssh client on `wire` with our choice of algorithms; the types of the keys that are known come first."""
    transport = paramiko.Transport(wire)
    options = transport.get_security_options()
    options.kex = tuple(name for name in KEX if name in options.kex)
    options.ciphers = tuple(name for name in CIPHERS if name in options.ciphers)
    options.digests = tuple(name for name in MACS if name in options.digests)
    types = {"rsa-sha2-512" if key.type == "ssh-rsa" else key.type for key in known.keys}
    options.key_types = tuple(sorted(options.key_types, key=lambda type: type not in types))
    return transport


def _through(via: Link, login: Login) -> Any:
    try:
        return via.transport.open_channel("direct-tcpip", (login.address, login.port), ("", 0), timeout=CHANNEL)
    except (SSHException, OSError, EOFError) as error:
        raise Unreachable(
            f"{login.name}: its gateway does not reach {login.address} port {login.port} ({error})",
            hint="the gateway's sshd must allow TCP forwarding, and the address must be right as seen from there",
            host=login.name,
        ) from None


def _command(login: Login) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A ProxyCommand of the ssh configuration; no shell, as in fabric."""
    ours, theirs = socket.socketpair()
    try:
        words, end = shlex.split(login.command or ""), theirs.fileno()
        return ours, subprocess.Popen(words, stdin=end, stdout=end, stderr=subprocess.DEVNULL, start_new_session=True)
    except (OSError, ValueError, IndexError) as error:
        ours.close()
        message = f"{login.name}: the ProxyCommand {login.command!r} does not start ({error})"
        raise Unreachable(message, hint="correct it in ~/.ssh/config", host=login.name) from None
    finally:
        theirs.close()


def _key(key: paramiko.PKey) -> Key:
    return Key(key.get_name(), key.asbytes())
