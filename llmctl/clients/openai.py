"""Asks a slot, or any server that speaks OpenAI's protocol, with nothing but the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmctl.clients.talk import Message, Piece, Said, Talk, plain, sound
from llmctl.errors import LlmctlError, Unreachable

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 900.0
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # bound there, reached here
LINE = 4 * 2**20
WHOLE = 64 * 2**20
"""Bytes of one event, and of an answer in one piece."""


@dataclass(frozen=True)
class Place:
    """Where a server is: how to get a connection to it, its name in the Host header, and where its API begins.

    `slot` is how a slot is typed (8101, gpu1:8101), None for another server, whose `name` is its URL. `key` is sent;
    without one, `find_key` is asked for it when the server wants one.
    """

    dial: Callable[[], socket.socket]
    netloc: str
    base: str = "/v1"
    slot: str | None = None
    name: str = ""
    key: str | None = field(default=None, repr=False)
    find_key: Callable[[], str | None] | None = None

    @property
    def port(self) -> int | None:
        return int(self.slot.rpartition(":")[2]) if self.slot else None


def at(address: str, port: int, key: str | None = None) -> Place:
    """A slot that this machine reaches by itself."""
    address = ANYWHERE.get(address, address)
    netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return Place(lambda: socket.create_connection((address, port), CONNECT_TIMEOUT), netloc, slot=str(port), key=key)


class OpenAI:
    """llmctl.clients.talk.Client over HTTP; each question has a connection of its own."""

    def __init__(self, place: Place, model: str | None = None) -> None:
        self.place, self.model, self._key = place, model, place.key

    def ask(self, messages: Sequence[Message], settings: Mapping[str, Any]) -> Talk:
        asked = {"messages": list(messages), "stream": True, "stream_options": {"include_usage": True}, **settings}
        if self.model is not None:
            asked["model"] = self.model
        began = time.monotonic()
        model, finish, usage, answer, reasoning = None, None, None, "", ""
        with self._asked("POST", "/chat/completions", json.dumps(asked)) as response:
            for event in self._events(response):
                model, usage = event.get("model") or model, event.get("usage") or usage
                for choice in event.get("choices") or ():
                    delta = choice.get("delta") or choice.get("message") or {}
                    finish = choice.get("finish_reason") or finish
                    if thought := sound(delta.get("reasoning_content") or delta.get("reasoning") or ""):
                        reasoning += thought
                        yield Piece(thought, reasoning=True)
                    if text := sound(delta.get("content") or ""):
                        answer += text
                        yield Piece(text)
            if finish is None:
                raise self._error("the answer ended before its end", f"llmctl logs {self.place.slot}")
        return Said(model, answer, reasoning, finish, usage, round(time.monotonic() - began, 3))

    def models(self) -> list[str]:
        return [str(one["id"]) for one in self.listed()]

    def listed(self) -> list[Mapping[str, Any]]:
        """What the server says of each of its models."""
        with self._asked("GET", "/models", None) as response:
            return list(json.loads(response.read(WHOLE))["data"])

    @property
    def keyed(self) -> bool:
        """Whether the server gets a key; of a slot, as far as it was asked, whether it wants one."""
        return self._key is not None

    def close(self) -> None:
        pass

    # ── one request ─────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _asked(self, method: str, path: str, body: str | None) -> Iterator[http.client.HTTPResponse]:
        """The response of a request that went well. Unreachable, or the server's own error; what makes no sense too."""
        connection = http.client.HTTPConnection("server")
        try:
            with self._answered(connection, method, path, body) as response:
                if response.status != 200:
                    raise error_of(response.read(LINE), self.place.port, f"HTTP {response.status}")
                yield response
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._error(f"the answer makes no sense: {error}", f"llmctl logs {self.place.slot}") from None
        finally:
            connection.close()

    def _answered(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: str | None
    ) -> http.client.HTTPResponse:
        """The response, asked for again with a key where the server wants one that can be found."""
        response = self._sent(connection, method, path, body)
        if response.status == 401 and self._key is None and self.place.find_key:
            self._key = self.place.find_key()
            if self._key:
                response.close()
                connection.close()
                return self._sent(connection, method, path, body)
        return response

    def _sent(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: str | None
    ) -> http.client.HTTPResponse:
        connection.sock = self.place.dial()
        connection.sock.settimeout(ANSWER_TIMEOUT)
        headers = {"Host": self.place.netloc, "Accept": "text/event-stream, application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        connection.request(method, self.place.base + path, body, headers)
        return connection.getresponse()

    def _events(self, response: http.client.HTTPResponse) -> Iterator[Mapping[str, Any]]:
        """The events of an answer; a server that does not stream sends one, whole."""
        if (response.getheader("Content-Type") or "").startswith("application/json"):
            yield json.loads(response.read(WHOLE))
        else:
            yield from events(response, self.place.port)

    def _unreachable(self, error: Exception) -> LlmctlError:
        if self.place.slot:
            return Unreachable(
                f"no answer from port {self.place.slot}: {error}", hint="llmctl status", port=self.place.port
            )
        return Unreachable(f"no answer from {self.place.name}: {error}")

    def _error(self, message: str, hint: str) -> LlmctlError:
        if self.place.slot:
            return LlmctlError(message, hint=hint, port=self.place.port)
        return LlmctlError(f"{self.place.name}: {message}")


def events(response: http.client.HTTPResponse, port: int | None) -> Generator[dict[str, Any], None, None]:
    """The JSON of each server-sent event, up to [DONE]."""
    while line := response.readline(LINE):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if not isinstance(event, dict):
            raise ValueError("an event is no JSON object")
        if event.get("error"):
            raise error_of(data, port, "the engine failed")
        yield event


def error_of(body: bytes, port: int | None, usual: str) -> LlmctlError:
    """The OpenAI error object as our error; `details["param"]` is the field at fault."""
    try:
        found = json.loads(body)["error"]
        error = LlmctlError(plain(found["message"]), port=port, details={"param": found.get("param")})
        error.code = plain(str(found.get("code") or error.code))
        return error
    except (ValueError, KeyError, TypeError, AttributeError):
        return LlmctlError(f"{usual}: {plain(body[:200].decode(errors='replace'))}", port=port)
