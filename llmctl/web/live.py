"""Pages that stay up to date: server-sent events, a bounded number of readers, one watcher for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from llmctl.errors import LlmctlError, RequestError
from llmctl.render.text import escaped
from llmctl.watch.view import Snapshot
from llmctl.web.verbs import Following, Watching

T = TypeVar("T")
READERS = 48
FOLLOWERS = 8
LOG_WAITING = 500
"""Lines of a log that wait for a reader; the oldest are left out."""
HEARTBEAT = 10.0
LEAST = 0.5
"""Seconds between two events of one page."""
LOOK = 1.0


class Places:
    """A number of places, each for one reader."""

    def __init__(self, most: int, what: str) -> None:
        self.most, self.taken, self.what = most, 0, what

    def take(self) -> None:
        """Take one; RequestError 503 when there is none."""
        if self.taken >= self.most:
            raise RequestError(
                f"{self.taken} {self.what} are open, which is all there may be", status=503, code="too_many",
                details={"retry_after": 10},
            )  # fmt: skip
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1


class Hub:
    """Wakes the readers when the fleet or a change has gone on. While there are none it asks nothing."""

    def __init__(self, watch: Watching) -> None:
        self.readers, self.followers = Places(READERS, "pages"), Places(FOLLOWERS, "logs")
        self.closed = False
        self._watch, self._count = watch, 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Event] = set()

    def snapshot(self) -> Snapshot:
        return self._watch.snapshot()

    def changed(self) -> None:
        """Something else than the fleet has gone on; from any thread."""
        loop = self._loop
        if loop and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it closes just now
                loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        self._wake()

    async def changes(self) -> AsyncGenerator[bool, None]:
        """True at each change, False at each HEARTBEAT without one; ends with the hub."""
        event = asyncio.Event()
        event.set()
        self._waiting.add(event)
        self._loop = asyncio.get_running_loop()
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())
        try:
            while not self.closed:
                if not await within(event.wait(), HEARTBEAT):
                    yield False
                    continue
                event.clear()
                if not self.closed:
                    yield True
                    await asyncio.sleep(LEAST)
        finally:
            self._waiting.discard(event)

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    async def _run(self) -> None:
        number = self._watch.snapshot().number
        while self._waiting and not self.closed:
            now = (await asyncio.to_thread(self._watch.wait, number, LOOK)).number
            if now != number:
                number = now
                self._wake()


class Lines:
    """A log that is followed in a thread of its own; `take` gives what has come."""

    def __init__(self, following: Following, wake: Callable[[], None]) -> None:
        self._following, self._wake = following, wake
        self._lock = threading.Lock()
        self._lines: list[str] = []
        threading.Thread(target=self._run, name="web log", daemon=True).start()

    def _run(self) -> None:
        try:
            for line in self._following.lines():
                self._came(line.rstrip("\n"))
        except LlmctlError as error:
            self._came(f"llmctl: {error.message}")
        except Exception as error:  # of a connection that `cut` closed under it
            self._came(f"llmctl: {type(error).__name__}")

    def _came(self, line: str) -> None:
        with self._lock:
            self._lines = [*self._lines[1 - LOG_WAITING :], escaped(line)]
        self._wake()

    def take(self) -> list[str]:
        with self._lock:
            taken, self._lines = self._lines, []
        return taken

    def cut(self) -> None:
        self._following.cut()


async def within(work: Coroutine[Any, Any, T], seconds: float) -> T | None:
    """What `work` gives, None when that takes longer. Unlike `asyncio.wait_for` (before 3.12) it never forgets that it
    was cancelled because the work ended at the same moment: a stream would go on for nobody."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=seconds)
        return task.result() if task.done() else None
    finally:
        task.cancel()


def event(kind: str, data: Any) -> bytes:
    """One server-sent event; JSON has no line breaks of its own."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


class Stream:
    """An ASGI answer of events, which ends as soon as its client has gone; `done` is called then, whatever happened."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], done: Callable[[], None]) -> None:
        self._pieces, self._done = pieces, done

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        tasks = {asyncio.ensure_future(self._send(send)), asyncio.ensure_future(_gone(receive))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._done()

    async def _send(self, send: Any) -> None:
        head = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        async with contextlib.aclosing(self._pieces) as pieces:
            await send({"type": "http.response.start", "status": 200, "headers": head})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
