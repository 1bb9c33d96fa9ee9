"""Talks llmws: typed JSON messages over a WebSocket, which stays open from one question to the next.

Imports websockets: `urls` imports it when it is needed.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from llmctl.clients.openai import ANSWER_TIMEOUT, CONNECT_TIMEOUT
from llmctl.clients.talk import Message, Piece, Said, Talk, plain, sound
from llmctl.errors import LlmctlError, Unreachable, UsageError

HELLO_TIMEOUT = 10.0
FRAME = 16 * 2**20
END = "<|end|>"
MARKS = ("<|system|>", "<|user|>", "<|assistant|>", END)


class Llmws:
    """llmctl.clients.talk.Client. `hint` is what to type when nobody is there."""

    def __init__(self, url: str, key: str | None = None, session: str | None = None, hint: str | None = None) -> None:
        self.url, self.session, self.hint = url, session, hint
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._open: ClientConnection | None = None
        self._closing = contextlib.ExitStack()
        self._welcome: Mapping[str, Any] = {}

    def ask(self, messages: Sequence[Message], settings: Mapping[str, Any]) -> Talk:
        began = time.monotonic()
        head: Mapping[str, Any] = {}
        answer, whole, asked = "", False, inference(messages)
        with self._talking() as socket:
            try:
                socket.send(json.dumps({**asked, "config": dict(settings)}))
                while True:
                    message = self._receive(socket, ANSWER_TIMEOUT)
                    if message["type"] == "token":
                        answer += sound(message["data"])
                        yield Piece(sound(message["data"]))
                    elif message["type"] == "start":
                        head = message
                    elif message["type"] == "done":
                        break
                whole = True
            finally:
                if not whole:  # what it would still say is no answer to the next question
                    self.close()
        tokens = message.get("total_tokens")
        usage = {"prompt_tokens": head.get("tokens_in"), "completion_tokens": tokens}
        finish = "length" if tokens is not None and tokens == head.get("max_tokens") else "stop"
        return Said(self._model(), answer, "", finish, usage, round(time.monotonic() - began, 3))

    def models(self) -> list[str]:
        with self._talking() as socket:
            socket.send(json.dumps({"type": "list_models"}))
            while (message := self._receive(socket, HELLO_TIMEOUT))["type"] != "models_list":
                pass
            return [str(one["name"]) for one in message["models"]]

    def close(self) -> None:
        self._open = None
        self._closing.close()

    # ── one connection ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _talking(self) -> Iterator[ClientConnection]:
        """The connection, opened where there is none; what breaks in the block is told as an error, and closes it."""
        try:
            if self._open is None or self._open.state is not State.OPEN:  # servers hang up between questions
                self.close()
                self._open = self._connected()
            yield self._open
        except LlmctlError:
            raise
        except InvalidURI as error:
            raise UsageError(f"{self.url[:140]!r} is not an address: {plain(str(error))}") from None
        except (OSError, WebSocketException) as error:
            self.close()
            raise Unreachable(f"no answer from {self.url}: {_why(error)}", hint=self.hint) from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self.close()
            raise LlmctlError(f"{self.url}: the answer makes no sense: {plain(str(error))}") from None

    def _connected(self) -> ClientConnection:
        """A new connection, past its greeting."""
        with contextlib.ExitStack() as stack:
            socket = stack.enter_context(
                connect(
                    self.url, additional_headers=self._headers, open_timeout=CONNECT_TIMEOUT, max_size=FRAME,
                    proxy=None, close_timeout=1.0,
                )
            )  # fmt: skip
            socket.send(json.dumps({"type": "hello", **({"session_id": self.session} if self.session else {})}))
            while (message := self._receive(socket, HELLO_TIMEOUT))["type"] != "welcome":
                pass
            self._welcome = message
            self.session = message.get("session_id") or self.session
            self._closing = stack.pop_all()
        return socket

    def _receive(self, socket: ClientConnection, timeout: float) -> dict[str, Any]:
        """The next message; an error of the server is raised."""
        message = json.loads(socket.recv(timeout))
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ValueError("a message has no type")
        if message["type"] == "error":
            details = {key: message[key] for key in ("max_context", "input_length") if key in message}
            raise LlmctlError(plain(str(message.get("message"))), details=details)
        return message

    def _model(self) -> str | None:
        """What the server called its model when it greeted us."""
        model = self._welcome.get("model")
        name = model.get("name") if isinstance(model, dict) else model
        return str(name) if name else None


def inference(messages: Sequence[Message]) -> dict[str, Any]:
    """The message that asks: system and user apart, or all turns in one string once there are several.

    Images of all turns go with the last one: the protocol has no other place for them.
    """
    turns = [(str(message["role"]), _text(message["content"])) for message in messages]
    images = [url for message in messages for url in _images(message["content"])]
    asked = {"type": "inference", **({"images": images} if images else {})}
    if len(turns) <= 2 and all(role != "assistant" for role, _ in turns):
        return {**asked, "prompt": dict(turns)}
    if any(mark in text for _, text in turns for mark in MARKS):
        raise UsageError("this conversation has a mark of llmws in a text, and cannot be sent whole", hint="/clear")
    return {**asked, "prompt": "".join(f"<|{role}|>{text}{END}" for role, text in turns)}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _images(content: Any) -> list[str]:
    return [] if isinstance(content, str) else [part["image_url"]["url"] for part in content if "image_url" in part]


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionClosed):
        return (
            f"it closed the connection: {plain(error.rcvd.reason) or error.rcvd.code}" if error.rcvd else "it hung up"
        )
    return plain(str(error)) or type(error).__name__
