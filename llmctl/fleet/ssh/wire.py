"""What the bytes of an ssh connection go through: sent at once, acknowledged at once, and when the last ones came."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any


class Wire:
    """What a connection's bytes go through: a socket, or a channel of a gateway. `heard` is when the last ones came."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._tcp = isinstance(sock, socket.socket) and sock.family in (socket.AF_INET, socket.AF_INET6)
        self._closed = False  # paramiko asks for it by this name
        self.heard = time.monotonic()
        if self._tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def recv(self, size: int) -> bytes:
        """What came, acknowledged at once.

        Until the first session is open sshd sends no small packet before the last one was acknowledged, and a system
        likes to acknowledge after 40 ms: a login would take 65 ms on loopback where it takes 30.
        """
        data: bytes = self._sock.recv(size)
        self.heard = time.monotonic()
        if self._tcp and hasattr(socket, "TCP_QUICKACK"):  # Linux; it lasts for one packet
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data

    def send(self, data: bytes) -> int:
        return int(self._sock.send(data))

    def settimeout(self, seconds: float | None) -> None:
        self._sock.settimeout(seconds)

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(EOFError):  # a channel says goodbye, and its gateway may be gone already
            self._sock.close()

    def hang_up(self) -> None:
        """Let the reader see the end now, and not when it looks up next."""
        with contextlib.suppress(OSError, EOFError):
            self._sock.shutdown(socket.SHUT_RDWR)
