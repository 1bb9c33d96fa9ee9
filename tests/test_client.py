"""The client of OpenAI's protocol: whole answers only; every way to end early is an error with a name."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmctl.clients import openai, urls
from llmctl.clients.talk import Piece, Said, Talk
from llmctl.errors import LlmctlError, Unreachable, UsageError
from tests.runner.test_media_urls import certificate

PIECE = b'data: {"model": "m", "choices": [{"delta": {"content": "Hel"}}]}\n\n'
LAST = b'data: {"model": "m", "choices": [{"delta": {"content": "lo"}, "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"model": "m", "choices": [], "usage": {"completion_tokens": 2}}\n\n'
ERROR = b'data: {"error": {"message": "it died", "code": "engine_failed"}}\n\n'
DONE = b"data: [DONE]\n\n"
REFUSED = b'{"error": {"message": "no key", "code": "invalid_api_key"}}'

Serve = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(status, body) → (port of a server that answers so, what it will have been sent).

    With `key` requests without it get 401. `kind` is the content type, `models` what GET answers. `tls` is the file of
    a certificate with its key.
    """
    servers = []

    def start(
        status: int,
        body: bytes,
        key: str | None = None,
        kind: str = "text/event-stream",
        models: Any = None,
        tls: str | None = None,
    ) -> tuple[int, list[dict[str, Any]]]:
        seen: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                seen.append({"path": self.path, "headers": dict(self.headers), "body": json.loads(sent)})
                if key and self.headers["Authorization"] != f"Bearer {key}":
                    self.answer(401, REFUSED, "application/json")
                else:
                    self.answer(status, body, kind)

            def do_GET(self) -> None:
                seen.append({"path": self.path, "headers": dict(self.headers)})
                self.answer(200, json.dumps(models).encode(), "application/json")

            def answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server.server_port, seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def heard(talk: Talk) -> tuple[list[Piece], Said]:
    """All that came, and the answer it made."""
    pieces = []
    while True:
        try:
            pieces.append(next(talk))
        except StopIteration as end:
            return pieces, end.value


def ask(port: int, key: str | None = None, **settings: Any) -> tuple[list[Piece], Said]:
    client = openai.OpenAI(openai.at("0.0.0.0", port, key))
    return heard(client.ask([{"role": "user", "content": "hi"}], settings))


def test_an_answer_comes_in_pieces_and_whole(serve: Serve) -> None:
    port, seen = serve(200, PIECE + LAST + USAGE + DONE)
    pieces, said = ask(port, key="k", max_tokens=5)
    assert pieces == [Piece("Hel"), Piece("lo")]
    assert (said.answer, said.reasoning) == ("Hello", "")
    assert (said.model, said.finish, said.usage) == ("m", "stop", {"completion_tokens": 2})
    assert seen[0]["headers"]["Authorization"] == "Bearer k"
    assert seen[0]["body"]["max_tokens"] == 5
    assert not {"temperature", "model"} & set(seen[0]["body"])


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_what_a_model_thinks_is_kept_apart(serve: Serve, name: str) -> None:
    thought = b'data: {"choices": [{"delta": {"%b": "hm"}}]}\n\n' % name.encode()
    pieces, said = ask(serve(200, thought + PIECE + LAST + DONE)[0])
    assert pieces[0] == Piece("hm", reasoning=True)
    assert (said.answer, said.reasoning) == ("Hello", "hm")


def test_a_server_that_does_not_stream_is_understood(serve: Serve) -> None:
    whole = b'{"model": "m", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}'
    assert ask(serve(200, whole, kind="application/json; charset=utf-8")[0])[1].answer == "Hello"


def test_half_a_character_does_not_come_through(serve: Serve) -> None:
    half = b'data: {"choices": [{"delta": {"content": "\\ud83d!"}, "finish_reason": "stop"}]}\n\n'
    assert ask(serve(200, half + DONE)[0])[1].answer == "?!"


def test_an_error_in_the_stream_is_raised(serve: Serve) -> None:
    with pytest.raises(LlmctlError, match="it died") as caught:
        ask(serve(200, PIECE + ERROR + DONE)[0])
    assert (caught.value.code, caught.value.exit_code) == ("engine_failed", 1)


def test_a_cut_stream_is_no_answer(serve: Serve) -> None:
    with pytest.raises(LlmctlError, match="before its end"):
        ask(serve(200, PIECE)[0])


@pytest.mark.parametrize(
    "body",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"choices": [3]}\n\n',
        b'data: {"choices": [{"delta": {"content": 3}}]}\n\n',
        b'data: {"choices": 3}\n\n',
    ],
)
def test_nonsense_is_an_error_with_a_name(serve: Serve, body: bytes) -> None:
    with pytest.raises(LlmctlError, match="makes no sense"):
        ask(serve(200, body)[0])


@pytest.mark.parametrize(("body", "says"), [(REFUSED, "no key"), (b"<html>", "HTTP 401: <html>")])
def test_a_refusal_is_told_in_the_slots_words(serve: Serve, body: bytes, says: str) -> None:
    with pytest.raises(LlmctlError, match=says):
        ask(serve(401, body)[0])


def test_an_error_of_a_server_cannot_drive_the_terminal(serve: Serve) -> None:
    with pytest.raises(LlmctlError) as caught:
        ask(serve(500, b'{"error": {"message": "a\\u001b[31mb\\nc\\u009b", "code": "\\u0007"}}')[0])
    assert (caught.value.message + caught.value.code).isprintable()


def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        ask(9)


def test_a_key_is_looked_for_when_it_is_wanted_and_only_then(serve: Serve) -> None:
    asked = []

    def find() -> str:
        asked.append(1)
        return "k"

    port, seen = serve(200, LAST + DONE, key="k")
    client = openai.OpenAI(replace(openai.at("127.0.0.1", port), find_key=find))
    for _ in range(2):
        assert heard(client.ask([], {}))[1].answer == "lo"
    assert [one["headers"].get("Authorization") for one in seen] == [None, "Bearer k", "Bearer k"]
    assert asked == [1]
    open_port, _ = serve(200, LAST + DONE)
    heard(openai.OpenAI(replace(openai.at("127.0.0.1", open_port), find_key=find)).ask([], {}))
    assert asked == [1]


def test_a_wrong_key_is_not_looked_for_again(serve: Serve) -> None:
    port, seen = serve(200, LAST + DONE, key="k")
    place = replace(openai.at("127.0.0.1", port), key="wrong", find_key=lambda: "k")
    with pytest.raises(LlmctlError, match="no key"):
        heard(openai.OpenAI(place).ask([], {}))
    assert len(seen) == 1


# ── servers by their URL ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "asked"),
    [("", "/v1"), ("/", "/v1"), ("/v1", "/v1"), ("/api/v3/", "/api/v3"), ("/v1/chat/completions", "/v1")],
)
def test_a_url_may_end_where_its_owner_thinks_that_it_ends(serve: Serve, path: str, asked: str) -> None:
    port, seen = serve(200, LAST + DONE)
    client = urls.client(f"http://127.0.0.1:{port}{path}", "k", "some")
    assert heard(client.ask([], {}))[1].answer == "lo"
    assert seen[0]["path"] == f"{asked}/chat/completions"
    assert seen[0]["headers"]["Host"] == f"127.0.0.1:{port}"
    assert (seen[0]["headers"]["Authorization"], seen[0]["body"]["model"]) == ("Bearer k", "some")


def models(*names: str, by: str = "them") -> dict[str, Any]:
    return {"data": [{"id": name, "owned_by": by} for name in names]}


@pytest.mark.parametrize(
    ("listed", "model"), [(models("only"), "only"), (models("a", "b", by="llmctl"), urls.ANY_MODEL)]
)
def test_the_model_that_is_meant_without_a_name(serve: Serve, listed: Any, model: str) -> None:
    port, seen = serve(200, LAST + DONE, models=listed)
    heard(urls.client(f"http://127.0.0.1:{port}", None, None).ask([], {}))
    assert seen[-1]["body"]["model"] == model


@pytest.mark.parametrize(("listed", "says"), [(models("a", "b"), "2 models"), (models(), "no models")])
def test_several_models_are_asked_about(serve: Serve, listed: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        urls.client(f"http://127.0.0.1:{serve(200, b'', models=listed)[0]}", None, None)
    assert str(caught.value.hint).startswith("--model NAME")


@pytest.mark.parametrize(
    "url",
    [
        *("", "studio", "studio:8101", "ftp://a", "http://", "http://a:b", "http://a:99999", "http://[", "http://ü"),
        *("ws://", "http://a/?q=1", "http://a/#f"),
    ],
)
def test_what_is_no_address_is_refused_by_name(url: str) -> None:
    with pytest.raises(UsageError, match="not an address"):
        urls.client(url, None, "m")


def test_a_key_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        urls.client("http://user:secret@127.0.0.1:1", None, "m")
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"


def test_https_takes_a_trusted_certificate_and_no_other(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = certificate(tmp_path, "localhost")
    client = urls.client(f"https://localhost:{serve(200, LAST + DONE, tls=made)[0]}", "k", "m")
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        heard(client.ask([], {}))
    monkeypatch.setenv("SSL_CERT_FILE", made)
    assert heard(client.ask([], {}))[1].answer == "lo"
