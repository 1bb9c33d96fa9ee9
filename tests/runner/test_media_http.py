"""Images through the routes of a slot: the same refusals in every protocol, and a slot that goes on as before."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import IMAGE, TEXT, Identity, Media, MediaPolicy
from tests.runner.fake_slot import GOOD, FakeService, FakeSlot, Response, post, raw, serve
from tests.runner.pictures import base64_of, blank_png, data_url, drawn, png_of

PNG = drawn()
Body = dict[str, Any]


class Seeing(FakeService):
    """With a model that takes images."""

    def identity(self) -> Identity | None:
        return Identity("alpha", "scripted", "scripted", 1024, 1000, 4, inputs=(TEXT, IMAGE))


def serving(**policy: Any) -> Any:
    return serve(Seeing(media=MediaPolicy(**policy)))


@pytest.fixture(scope="module")
def slot() -> Iterator[FakeSlot]:
    with serving() as slot:
        yield slot


def openai(*urls: str) -> Body:
    return _user([{"type": "image_url", "image_url": {"url": url}} for url in urls])


def responses(*urls: str) -> Body:
    return {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url} for url in urls]}]}


def anthropic(*data: str) -> Body:
    sources = [{"type": "base64", "media_type": "image/png", "data": one} for one in data]
    return {**_user([{"type": "image", "source": source} for source in sources]), "model": "alpha", "max_tokens": 4}


def ollama(*data: str) -> Body:
    return {"model": "alpha", "messages": [{"role": "user", "content": "what?", "images": list(data)}]}


def _user(parts: list[Any]) -> Body:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, *parts]}]}


ROUTES: list[tuple[str, Callable[[bytes], Body]]] = [
    ("/v1/chat/completions", lambda data: openai(data_url(data))),
    ("/v1/responses", lambda data: responses(data_url(data))),
    ("/v1/messages", lambda data: anthropic(base64_of(data))),
    ("/api/chat", lambda data: ollama(base64_of(data))),
    ("/api/generate", lambda data: {"model": "alpha", "prompt": "what?", "images": [base64_of(data)]}),
]


def ask(slot: FakeSlot, path: str, body: Body) -> Response:
    return raw(slot.port, post(path, json.dumps(body).encode()))


def refused(slot: FakeSlot, path: str, body: Body, status: int = 400) -> str:
    """The refusal, the same streamed and not; no engine saw the request, and the next one is answered."""
    before = len(slot.service.seen)
    messages = []
    for stream in (False, True):
        response = ask(slot, path, {**body, "stream": stream})
        assert response.status == status, response.body
        error = response.json()["error"]
        messages.append(error if isinstance(error, str) else error["message"])
    assert messages[0] == messages[1] and len(slot.service.seen) == before
    assert ask(slot, "/v1/chat/completions", GOOD).status == 200
    return messages[0]


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_an_image_reaches_the_engine_in_every_protocol(
    slot: FakeSlot, path: str, body: Callable[[bytes], Body]
) -> None:
    response = ask(slot, path, {**body(PNG), "stream": False})
    assert response.status == 200, response.body
    assert slot.service.seen[-1].media == (Media(IMAGE, PNG),)


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a38_to_a41_in_every_protocol(slot: FakeSlot, path: str, body: Callable[[bytes], Body]) -> None:
    for data in (b"<svg/>", b"%PDF-1.7", blank_png(50_000, 900), png_of(0, 5), drawn("JPEG")[:14]):
        assert len(refused(slot, path, body(data))) < 250


def test_a37_a44_over_http(slot: FakeSlot) -> None:
    for url in (
        "data:image/png;base64,!!!!",
        "data:image/png;base64,",
        "data:text/html;base64,AAAA",
        "data:,",
        "x",
        "",
    ):
        refused(slot, "/v1/chat/completions", openai(url))
    for data in ("!!!!", "AAA", base64_of(PNG) + "===="):
        refused(slot, "/v1/messages", anthropic(data))
        refused(slot, "/api/chat", ollama(data))


def test_a42_a_model_of_text_only_refuses_images_before_any_is_looked_at() -> None:
    with serve(FakeService(media=MediaPolicy(url_hosts=("*",)))) as slot:
        for path, body in ROUTES:
            assert "alpha takes text, no image" in refused(slot, path, body(b"not even an image"))
        assert "takes text" in refused(slot, "/v1/chat/completions", openai("http://a.example/never-fetched"))


def test_a48_a_hundred_images_over_http(slot: FakeSlot) -> None:
    assert "16" in refused(slot, "/v1/chat/completions", openai(*[data_url(PNG)] * 100))
    assert "16" in refused(slot, "/api/chat", ollama(*[base64_of(PNG)] * 100))


def test_s12_no_image_is_fetched_or_read_unless_the_operator_says_so(slot: FakeSlot, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        for asked in (url, url.replace("127.0.0.1", "localhost"), f"file://{tmp_path}/a.png", str(tmp_path / "a.png")):
            assert asked not in refused(slot, "/v1/chat/completions", openai(asked))
        with serving(url_hosts=("*", "127.0.0.1", "localhost")) as open_slot:
            refused(open_slot, "/v1/chat/completions", openai(url))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
