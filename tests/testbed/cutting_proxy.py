"""A TCP proxy in user space that cuts, freezes, delays or slows what runs through it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType

BLOCK = 4096
UP, DOWN = "up", "down"  # from the client to the target, and back
_RESET = struct.pack("ii", 1, 0)


class CuttingProxy:
    """Listens on `port` of 127.0.0.1 and passes all on to `target_port`. Use as a context manager.

    After `after_bytes` bytes of one connection (in `direction`; None: both directions together) that connection is
    cut, with a reset when `reset`, else as if both ends had closed it. `cuts` is how many connections are cut so, the
    first ones; None: all. `delay` is seconds that each piece waits, `rate` bytes a second in each direction.
    """

    def __init__(
        self, target_port: int, *, after_bytes: int | None = None, direction: str | None = None,
        cuts: int | None = None, reset: bool = False, delay: float = 0.0, rate: float | None = None,
    ) -> None:  # fmt: skip
        self.target_port, self.after_bytes, self.direction = target_port, after_bytes, direction
        self.cuts, self.reset, self.delay, self.rate = cuts, reset, delay, rate
        self.passed = {UP: 0, DOWN: 0}
        self.connections = 0
        self._running = threading.Event()
        self._running.set()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def __enter__(self) -> CuttingProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._accepting.join(5)
        self._listener.close()
        self._running.set()
        self.cut()

    def freeze(self) -> None:
        """Pass nothing on any more, and keep the connections: a network that swallows everything."""
        self._running.clear()

    def thaw(self) -> None:
        self._running.set()

    def cut(self) -> None:
        """Cut every connection that is open now."""
        for pair in list(self._pairs):
            self._cut(pair)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                target = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                client.close()
                continue
            self.connections += 1
            pair = (client, target)
            for sock in pair:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append(pair)
            left = _Left(self.after_bytes if self.cuts is None or self.connections <= self.cuts else None)
            for direction in (UP, DOWN):
                threading.Thread(target=self._pass, args=(pair, direction, left), daemon=True).start()

    def _pass(self, pair: tuple[socket.socket, socket.socket], direction: str, left: _Left) -> None:
        source, sink = pair if direction == UP else pair[::-1]
        counts = self.direction in (None, direction)
        with contextlib.suppress(OSError):
            while data := source.recv(BLOCK):
                self._running.wait()
                time.sleep(self.delay + (len(data) / self.rate if self.rate else 0.0))
                allowed = left.take(len(data)) if counts else len(data)
                sink.sendall(data[:allowed])
                with self._lock:
                    self.passed[direction] += allowed
                if allowed < len(data):
                    self._cut(pair)
                    return
            if pair in self._pairs:
                sink.shutdown(socket.SHUT_WR)

    def _cut(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with contextlib.suppress(ValueError):
            self._pairs.remove(pair)
        for sock in pair:
            with contextlib.suppress(OSError):
                if self.reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.shutdown(socket.SHUT_RD if self.reset else socket.SHUT_RDWR)  # wakes who reads from it
            sock.close()


class _Left:
    """How many bytes of a connection may still pass."""

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._lock = threading.Lock()

    def take(self, size: int) -> int:
        with self._lock:
            if self._count is None:
                return size
            taken = min(size, self._count)
            self._count -= taken
            return taken
