"""Requests at a steady rate, whatever the server does: streams, hung-up streams, pictures, nonsense, plain ones."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import queue
import random
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

STREAM, CUT, IMAGE, BAD, PLAIN = "stream", "cut", "image", "bad", "plain"
DECK = (STREAM,) * 5 + (CUT,) * 2 + (IMAGE, BAD, PLAIN)
"""Row K's mix, of each ten requests; one in ten is plain."""
CHAT = "/v1/chat/completions"
TIMEOUT = 120.0
IDLE = 2.0
"""Seconds that a kept connection may rest before another is opened instead: servers close idle ones."""
HANDS = 64
SIDE = 64

GOOD: Mapping[str, Any] = {"messages": [{"role": "user", "content": "What is a slot?"}], "temperature": 0}
NONSENSE: tuple[tuple[str, bytes], ...] = tuple(
    (path, body if isinstance(body, bytes) else json.dumps(body).encode())
    for path, body in [
        (CHAT, b"{"),
        (CHAT, b"[]"),
        (CHAT, {"messages": []}),
        (CHAT, {**GOOD, "max_tokens": 0}),
        (CHAT, {**GOOD, "temperature": "hot"}),
        (CHAT, {**GOOD, "model": "../../etc/passwd"}),
        (CHAT, {**GOOD, "stop": ["x"] * 1000}),
        (CHAT, {"messages": [{"role": "wizard", "content": "x"}]}),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 200_000}]}),
        (CHAT, b"[" * 100_000),
        ("/v1/nothing-here", GOOD),
        ("/v1/completions", {"prompt": [-1]}),
    ]
)


@dataclass(frozen=True)
class Outcome:
    """One request: when it was due (seconds of the run), how long it took from then on, and what was lost with it."""

    kind: str
    at: float
    seconds: float
    lost: str = ""


class Lost(Exception):
    """An answer that a client must not get."""


class Traffic:
    """`with Traffic(port, rate) as t:` …; `t.outcomes` grows. `models` counts who answered, `seen` pictures that were
    looked at, `losses` what was lost."""

    def __init__(self, port: int, rate: float, *, tokens: int = 12, seed: int = 0) -> None:
        self.port, self.rate, self.tokens = port, rate, tokens
        self.outcomes: list[Outcome] = []
        self.models: Counter[str] = Counter()
        self.seen = self.losses = 0
        self._random = random.Random(seed)
        self._kept: queue.LifoQueue[tuple[float, http.client.HTTPConnection]] = queue.LifoQueue()
        self._stop, self._lock, self._numbers = threading.Event(), threading.Lock(), itertools.count()
        self._thread = threading.Thread(target=self._go, name="soak")

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                self._kept.get_nowait()[1].close()

    @property
    def lost(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.lost]

    def counts(self) -> dict[str, int]:
        """Requests of each kind."""
        return dict(Counter(one.kind for one in self.outcomes))

    def _go(self) -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(HANDS, thread_name_prefix="soak") as pool:
            for number, kind in enumerate(deal(self._random)):
                due = number / self.rate
                if self._stop.wait(max(0.0, began + due - time.monotonic())):
                    return
                pool.submit(self._one, kind, began, due)

    def _one(self, kind: str, began: float, due: float) -> None:
        lost = ""
        try:
            getattr(self, f"_{kind}")()
        except Lost as error:
            lost = str(error)
        except Exception as error:  # whatever a client library raises is what its user would get
            lost = repr(error)
        with self._lock:
            self.losses += bool(lost)
            self.outcomes.append(Outcome(kind, due, time.monotonic() - began - due, lost and f"{kind}: {lost}"[:500]))

    # ── the kinds ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _plain(self) -> None:
        with self._connection(kept=True) as connection:
            status, answer = _asked(connection, CHAT, {**GOOD, "max_tokens": self.tokens})
            self._answered(status, answer)

    def _stream(self) -> None:
        with self._connection(kept=next(self._numbers) % 2 == 0) as connection:
            status, text = _asked(connection, CHAT, {**GOOD, "max_tokens": self.tokens, "stream": True})
            if status != 200:
                raise Lost(f"status {status}: {text}")
            rows = [line[6:] for line in str(text).splitlines() if line.startswith("data: ")]
            if not rows or rows[-1] != "[DONE]":
                raise Lost(f"a stream ended before its end: {str(text)[-200:]!r}")
            events = [json.loads(row) for row in rows[:-1]]
            if any("error" in event for event in events):
                raise Lost(f"an error in a stream: {events[-1]}")
            if not any(choice["finish_reason"] for event in events for choice in event["choices"]):
                raise Lost("a stream without a finish reason")
            self._heard(events[0]["model"])

    def _cut(self) -> None:
        with self._connection(kept=False) as connection:
            body = {**GOOD, "max_tokens": 200, "stream": True}
            connection.request("POST", CHAT, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise Lost(f"status {response.status}: {response.read(500)!r}")
            if not response.readline().startswith(b"data: "):
                raise Lost("a stream that begins with no event")

    def _image(self) -> None:
        url = f"data:image/png;base64,{base64.b64encode(picture(next(self._numbers))).decode()}"
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": self.tokens}
        with self._connection(kept=False) as connection:
            status, answer = _asked(connection, CHAT, body)
            if status == 200:
                self._answered(status, answer)
                with self._lock:
                    self.seen += 1
            else:  # a model without eyes
                _refused(status, answer)

    def _bad(self) -> None:
        path, body = NONSENSE[next(self._numbers) % len(NONSENSE)]
        with self._connection(kept=False) as connection:
            _refused(*_asked(connection, path, body))

    def _answered(self, status: int, answer: Any) -> None:
        if status != 200 or not answer["choices"][0]["finish_reason"]:
            raise Lost(f"status {status}: {answer}")
        self._heard(answer["model"])

    def _heard(self, model: str) -> None:
        with self._lock:
            self.models[model] += 1

    @contextlib.contextmanager
    def _connection(self, kept: bool) -> Iterator[http.client.HTTPConnection]:
        """A connection; with `kept` one that was used before, if one rested for a moment only, and may be again."""
        connection = self._rested() if kept else None
        connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if kept and connection.sock:
            self._kept.put((time.monotonic(), connection))
        else:
            connection.close()

    def _rested(self) -> http.client.HTTPConnection | None:
        with contextlib.suppress(queue.Empty):
            while True:
                at, connection = self._kept.get_nowait()
                if time.monotonic() - at < IDLE:
                    return connection
                connection.close()
        return None


def deal(chance: random.Random) -> Iterator[str]:
    """Kinds without end; every ten have the mix, in an order of their own."""
    while True:
        yield from chance.sample(DECK, len(DECK))


def picture(number: int) -> bytes:
    """A PNG of one colour that no cache has seen."""
    row = b"\0" + bytes((number % 256, number // 256 % 256, 128)) * SIDE
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(row * SIDE)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _asked(connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"content-type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    is_json = "application/json" in (response.headers.get("content-type") or "")
    return response.status, json.loads(text) if is_json else text.decode()


def _refused(status: int, answer: Any) -> None:
    """A client's own mistake is a 4xx in the shape of OpenAI's errors."""
    if not 400 <= status < 500 or not isinstance(answer, dict) or not answer.get("error", {}).get("message"):
        raise Lost(f"status {status} for a bad request: {str(answer)[:200]}")
