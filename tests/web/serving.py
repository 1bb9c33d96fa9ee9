"""A status page served over a real socket, by a thread of this process, and its streams read as a browser does."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

from llmctl.runner.listener import Listener
from llmctl.runner.listener import bind as listen
from llmctl.web.app import Web
from llmctl.web.serve import DRAIN, LIMITS

TIMEOUT = 30


class Served:
    """One page at `port`."""

    def __init__(self, web: Web, port: int) -> None:
        self.web, self.port = web, port
        self.loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._ready = threading.Event()
        self._opened: list[http.client.HTTPResponse] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(TIMEOUT)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(TIMEOUT)
        for answer in self._opened:
            hang_up(answer)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.closing(self.loop):
            self.loop.run_until_complete(self._serve())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())

    async def _serve(self) -> None:
        with listen("127.0.0.1", self.port) as sock:
            listener = Listener(sock, self.web.app, LIMITS)
            await listener.accept()
            self._ready.set()
            await self._over.wait()
            self.web.close()
            await listener.drain(DRAIN)

    def open(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> http.client.HTTPResponse:
        """An answer that has begun; `hang_up` ends it, or the end of this."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.connection = connection  # type: ignore[attr-defined]
        self._opened.append(answer)
        return answer


def hang_up(answer: http.client.HTTPResponse) -> None:
    answer.close()
    answer.connection.close()  # type: ignore[attr-defined]


def events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    """The events of a stream as they come; ("", text) for a comment."""
    kind = ""
    while line := answer.readline().decode():
        if line.startswith("event: "):
            kind = line[7:].strip()
        elif line.startswith("data: "):
            yield kind, json.loads(line[6:])
        elif line.startswith(":"):
            yield "", line[1:].strip()
