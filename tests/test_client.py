"""The client of `ask`: whole answers only; every way to end early is an error with a name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from llmctl.clients import openai
from llmctl.clients.talk import Piece, Said
from llmctl.errors import LlmctlError, Unreachable

PIECE = b'data: {"model": "m", "choices": [{"delta": {"content": "Hel"}}]}\n\n'
LAST = b'data: {"model": "m", "choices": [{"delta": {"content": "lo"}, "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"model": "m", "choices": [], "usage": {"completion_tokens": 2}}\n\n'
ERROR = b'data: {"error": {"message": "it died", "code": "engine_failed"}}\n\n'
DONE = b"data: [DONE]\n\n"

Serve = Callable[[int, bytes], tuple[int, dict[str, Any]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(status, body) → (port of a server that answers so, what it will have been sent)."""
    servers = []

    def start(status: int, body: bytes) -> tuple[int, dict[str, Any]]:
        seen: dict[str, Any] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                seen["key"] = self.headers["Authorization"]
                seen["body"] = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port, seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(port: int, key: str | None = None, **settings: Any) -> tuple[list[Piece], Said]:
    client = openai.OpenAI(openai.at("0.0.0.0", port, key))
    answer = client.ask([{"role": "user", "content": "hi"}], settings)
    pieces = []
    while True:
        try:
            pieces.append(next(answer))
        except StopIteration as end:
            return pieces, end.value


def test_an_answer_comes_in_pieces_and_whole(serve: Serve) -> None:
    port, seen = serve(200, PIECE + LAST + USAGE + DONE)
    pieces, said = ask(port, key="k", max_tokens=5)
    assert pieces == [Piece("Hel"), Piece("lo")]
    assert (said.answer, said.reasoning) == ("Hello", "")
    assert (said.model, said.finish, said.usage) == ("m", "stop", {"completion_tokens": 2})
    assert seen["key"] == "Bearer k"
    assert b'"max_tokens": 5' in seen["body"]
    assert b"temperature" not in seen["body"]


def test_an_error_in_the_stream_is_raised(serve: Serve) -> None:
    with pytest.raises(LlmctlError, match="it died") as caught:
        ask(serve(200, PIECE + ERROR + DONE)[0])
    assert caught.value.code == "engine_failed"


def test_a_cut_stream_is_no_answer(serve: Serve) -> None:
    with pytest.raises(LlmctlError, match="before its end"):
        ask(serve(200, PIECE)[0])


@pytest.mark.parametrize(
    ("body", "says"),
    [(b'{"error": {"message": "no key", "code": "unauthorized"}}', "no key"), (b"<html>", "HTTP 401: <html>")],
)
def test_a_refusal_is_told_in_the_slots_words(serve: Serve, body: bytes, says: str) -> None:
    with pytest.raises(LlmctlError, match=says):
        ask(serve(401, body)[0])


def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        ask(9)
