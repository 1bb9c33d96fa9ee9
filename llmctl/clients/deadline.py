"""A whole request within a time: a server that goes on and on, or says nothing, is cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace

from llmctl.clients.openai import Place


class Deadline:
    """`place` for one request, whose connection is shut down when its time is over, which `late` then tells."""

    def __init__(self, place: Place, seconds: float) -> None:
        self.late, self._socks = threading.Event(), list[socket.socket]()
        self.place = replace(place, dial=lambda: self._kept(place.dial()))
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _kept(self, sock: socket.socket) -> socket.socket:
        self._socks.append(sock)
        return sock

    def _cut(self) -> None:
        self.late.set()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
