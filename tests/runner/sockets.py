"""WebSocket clients for tests: the websockets library, and a handshake by hand where it is too well-behaved."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.runner.fake_slot import connect as raw_connect
from tests.runner.fake_slot import read_response

TIMEOUT = 30.0
CHAT, LLMWS = "/v1/chat/completions", "/ws"
HANDSHAKE = (
    "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}",
)  # fmt: skip


class Client:
    """One open WebSocket that speaks JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def say(self, message: Any) -> None:
        self.socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def hear(self) -> Any:
        text = self.socket.recv(TIMEOUT)
        return text if text == "[DONE]" else json.loads(text)

    def hear_until(self, *ends: str) -> list[Any]:
        """Messages up to and with the one whose type, or which itself, is one of `ends`."""
        found = [self.hear()]
        while found[-1] not in ends and not (isinstance(found[-1], dict) and found[-1].get("type") in ends):
            found.append(self.hear())
        return found

    def closed(self) -> tuple[int, str]:
        """With what code and reason the server closes; what it says until then is passed over."""
        try:
            while True:
                self.socket.recv(TIMEOUT)
        except ConnectionClosed as error:
            assert error.rcvd, error
            return error.rcvd.code, error.rcvd.reason


@contextlib.contextmanager
def websocket(port: int, path: str = CHAT, **options: Any) -> Iterator[Client]:
    """A WebSocket to a slot; with llmws, past its greeting."""
    url = f"ws://127.0.0.1:{port}{path}"
    with connect(url, open_timeout=TIMEOUT, close_timeout=2, proxy=None, **options) as socket:
        client = Client(socket)
        if path != CHAT:
            client.say({"type": "hello"})
            assert client.hear()["type"] == "welcome"
        yield client


def question(text: str = "hi", **fields: Any) -> dict[str, Any]:
    """The body of a chat."""
    return {"messages": [{"role": "user", "content": text}], **fields}


def answer(messages: list[Any]) -> str:
    """The text of a chat's events, which end with [DONE] and hold no error."""
    assert messages[-1] == "[DONE]" and not any("error" in event for event in messages[:-1]), messages
    return "".join(choice["delta"].get("content") or "" for event in messages[:-1] for choice in event["choices"])


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    """A handshake in bytes; `headers` replace those of HANDSHAKE by name."""
    given = {header.partition(":")[0].lower(): header for header in (*HANDSHAKE, *headers)}
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *given.values()]
    return "\r\n".join(line for line in lines if not line.endswith(": -")).encode("latin-1") + b"\r\n\r\n"


@contextlib.contextmanager
def raw_websocket(port: int, path: str = CHAT) -> Iterator[socket.socket]:
    """An open WebSocket on which the test writes frames itself."""
    with raw_connect(port) as sock:
        sock.sendall(request(path))
        assert read_response(sock).status == 101
        yield sock


def frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    """A client's frame (RFC 6455, section 5.2), masked with zeros."""
    size = len(data)
    if size < 126:
        length = bytes([size])
    else:
        length = b"\x7e" + size.to_bytes(2, "big") if size < 2**16 else b"\x7f" + size.to_bytes(8, "big")
    return bytes([fin << 7 | opcode, 0x80 | length[0]]) + length[1:] + b"\0\0\0\0" + data
