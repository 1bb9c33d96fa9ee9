"""Live traffic for tests: clients on kept and on new connections, streaming and not, that miss nothing."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any


def post(port: int, path: str, body: Any, *, headers: dict[str, str] | None = None, timeout: float = 60) -> Any:
    """One POST on a new connection: (status, headers, parsed JSON or text)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        return request(connection, "POST", path, body, headers)
    finally:
        connection.close()


def get(port: int, path: str, *, headers: dict[str, str] | None = None, timeout: float = 30) -> Any:
    """One GET on a new connection: (status, headers, parsed JSON or text)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        return request(connection, "GET", path, None, headers)
    finally:
        connection.close()


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: dict[str, str] | None
) -> Any:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
    response = connection.getresponse()
    text = response.read().decode()
    is_json = "application/json" in (response.headers.get("content-type") or "")
    return response.status, response.headers, json.loads(text) if is_json else text


def chat(port: int, question: str = "hello", **fields: Any) -> Any:
    """A chat completion: (status, headers, body)."""
    return post(port, "/v1/chat/completions", {"messages": [{"role": "user", "content": question}], **fields})


def sse(text: str) -> list[Any]:
    """The `data:` payloads of an event stream; the terminator as the string "[DONE]"."""
    rows = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [row if row == "[DONE]" else json.loads(row) for row in rows]


@dataclass
class Traffic:
    """`with Traffic(port, clients=8) as t:` … then `t.served`, `t.failures`, `t.models` (who answered)."""

    port: int
    clients: int = 8
    pause: float = 0.02
    max_tokens: int = 12
    served: int = 0
    failures: list[str] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    longest_gap: float = 0.0

    def __enter__(self) -> Traffic:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._threads = [threading.Thread(target=self._client, args=(i,)) for i in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _client(self, number: int) -> None:
        """Even clients keep their connection, odd ones open a new one each time; every third request streams."""
        keep, connection = number % 2 == 0, None
        for turn in itertools.count(number):
            if self._stop.is_set():
                break
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                close = self._ask(connection, stream=turn % 3 == 0)
                if close or not keep:
                    connection.close()
                    connection = None
            except Exception as error:
                with self._lock:
                    self.failures.append(f"{'kept' if keep else 'new'} connection: {error!r}")
                connection.close()
                connection = None
            time.sleep(self.pause)
        if connection:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, stream: bool) -> bool:
        body = {
            "messages": [{"role": "user", "content": "What is a slot?"}],
            "max_tokens": self.max_tokens, "temperature": 0, "stream": stream,
        }  # fmt: skip
        status, headers, answer = request(connection, "POST", "/v1/chat/completions", body, None)
        if status != 200:
            raise AssertionError(f"status {status}: {answer}")
        if stream:
            rows = sse(answer)
            assert rows[-1] == "[DONE]" and not any("error" in row for row in rows[:-1]), answer
            assert any(row["choices"] and row["choices"][0]["finish_reason"] for row in rows[:-1]), answer
            model = rows[0]["model"]
        else:
            assert answer["choices"][0]["message"]["content"] and answer["choices"][0]["finish_reason"], answer
            model = answer["model"]
        with self._lock:
            now = time.monotonic()
            self.longest_gap, self._last = max(self.longest_gap, now - self._last), now
            self.served += 1
            self.models.add(model)
        return (headers.get("connection") or "").lower() == "close"
