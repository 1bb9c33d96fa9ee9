"""The client of llmws, against a server of the test that also says what no server should."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.sync.server import ServerConnection, serve

from llmctl.clients import urls
from llmctl.clients.llmws import Llmws, inference
from llmctl.clients.talk import Piece
from llmctl.errors import LlmctlError, Unreachable, UsageError
from tests.conftest import eventually
from tests.test_client import heard

WELCOME = {"type": "welcome", "session_id": "s1", "model": "m"}
START = {"type": "start", "tokens_in": 3, "max_tokens": 5}
ANSWER = [START, {"type": "token", "data": "Hel"}, {"type": "log", "message": "x"}, {"type": "token", "data": "lo"}]
QUESTION = [{"role": "user", "content": "hi"}]
CLOSE = None
Llmctl = Callable[..., tuple[str, list[Any]]]


def done(tokens: int) -> dict[str, Any]:
    return {"type": "done", "total_tokens": tokens}


@pytest.fixture
def server() -> Iterator[Llmctl]:
    """server(answer, …) → (its URL, the messages it will have got): the n-th inference gets the n-th answer."""
    running = []

    def start(*answers: Sequence[Any], welcome: Any = WELCOME) -> tuple[str, list[Any]]:
        seen: list[Any] = []
        left = list(answers)

        def talk(socket: ServerConnection) -> None:
            for text in socket:
                message = json.loads(text)
                seen.append({**message, "key": socket.request and socket.request.headers.get("Authorization")})
                said = [welcome] if message["type"] == "hello" else left.pop(0)
                for one in said:
                    if one is CLOSE:
                        socket.close(1011, "the engine failed")
                        return
                    try:
                        socket.send(one if isinstance(one, str) else json.dumps(one))
                    except ConnectionClosed:
                        return

        made = serve(talk, "127.0.0.1", 0)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        running.append(made)
        return f"ws://127.0.0.1:{made.socket.getsockname()[1]}/", seen

    yield start
    for made in running:
        made.shutdown()


def test_an_answer_comes_in_pieces_on_a_connection_that_stays(server: Llmctl) -> None:
    url, seen = server([*ANSWER, done(2)], [*ANSWER, done(5)])
    with closing(urls.client(url, "k", None, "mine")) as client:
        pieces, said = heard(client.ask([{"role": "system", "content": "be"}, *QUESTION], {"top_k": 4}))
        assert pieces == [Piece("Hel"), Piece("lo")]
        assert (said.model, said.answer, said.finish) == ("m", "Hello", "stop")
        assert said.usage == {"prompt_tokens": 3, "completion_tokens": 2}
        assert heard(client.ask(QUESTION, {}))[1].finish == "length"
    assert [one["type"] for one in seen] == ["hello", "inference", "inference"]
    assert (seen[0]["session_id"], seen[0]["key"]) == ("mine", "Bearer k")
    assert (seen[1]["prompt"], seen[1]["config"]) == ({"system": "be", "user": "hi"}, {"top_k": 4})


def test_an_error_is_raised_and_the_next_question_gets_its_own_answer(server: Llmctl) -> None:
    error = {"type": "error", "message": "too\x1b[31m long", "max_context": 8, "input_length": 9}
    url, _ = server([START, {"type": "token", "data": "a"}, error], [*ANSWER, done(2)])
    with closing(Llmws(url)) as client:
        with pytest.raises(LlmctlError, match="too") as caught:
            heard(client.ask(QUESTION, {}))
        assert caught.value.message.isprintable()
        assert caught.value.exit_code == 1
        assert caught.value.details == {"max_context": 8, "input_length": 9}
        assert heard(client.ask(QUESTION, {}))[1].answer == "Hello"


def test_what_a_stopped_answer_still_says_is_not_heard_later(server: Llmctl) -> None:
    url, seen = server([*ANSWER, {"type": "token", "data": "late"}, done(3)], [*ANSWER, done(2)])
    with closing(Llmws(url)) as client:
        talk = client.ask(QUESTION, {})
        assert next(talk) == Piece("Hel")
        talk.close()
        assert heard(client.ask(QUESTION, {}))[1].answer == "Hello"
    assert [one.get("session_id") for one in seen if one["type"] == "hello"] == [None, "s1"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([*ANSWER, CLOSE], "the engine failed"),
        (["{"], "makes no sense"),
        (["[]"], "makes no sense"),
        ([{"type": "token"}], "makes no sense"),
        ([{"type": "token", "data": 3}], "makes no sense"),
    ],
)
def test_an_answer_without_its_end_is_an_error(server: Llmctl, answer: Sequence[Any], says: str) -> None:
    url, _ = server(answer)
    with closing(Llmws(url)) as client, pytest.raises(LlmctlError, match=says):
        heard(client.ask(QUESTION, {}))


def test_nobody_there_and_no_websocket_there_are_unreachable(server: Llmctl) -> None:
    with pytest.raises(Unreachable) as caught:
        heard(Llmws("ws://127.0.0.1:9/", hint="look").ask(QUESTION, {}))
    assert caught.value.hint == "look"
    url, _ = server(welcome={"type": "error", "message": "no key"})
    with pytest.raises(LlmctlError, match="no key"):
        Llmws(url).models()


def test_a_server_that_hung_up_between_questions_is_called_again(server: Llmctl) -> None:
    url, seen = server([*ANSWER, done(2), CLOSE], [*ANSWER, done(2)])
    with closing(Llmws(url)) as client:
        heard(client.ask(QUESTION, {}))
        eventually(lambda: client._open and client._open.state is State.CLOSED)
        assert heard(client.ask(QUESTION, {}))[1].answer == "Hello"
    assert [one["type"] for one in seen] == ["hello", "inference"] * 2


def test_its_models(server: Llmctl) -> None:
    url, _ = server([{"type": "models_list", "models": [{"name": "m", "path": "/m"}]}])
    with closing(Llmws(url)) as client:
        assert client.models() == ["m"]


# ── what is asked ───────────────────────────────────────────────────────────────────────────────────────────────────

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def test_a_conversation_goes_in_one_string() -> None:
    asked = inference([*QUESTION, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "sure?"}])
    assert asked["prompt"] == "<|user|>hi<|end|><|assistant|>yes<|end|><|user|>sure?<|end|>"
    assert "images" not in asked


def test_images_go_beside_the_prompt() -> None:
    asked = inference([{"role": "user", "content": [IMAGE, {"type": "text", "text": "what?"}]}])
    assert asked == {"type": "inference", "prompt": {"user": "what?"}, "images": ["data:image/png;base64,AA=="]}


@pytest.mark.parametrize("mark", ["<|end|>", "<|system|>"])
def test_a_text_cannot_pass_for_another_turn(mark: str) -> None:
    said = [*QUESTION, {"role": "assistant", "content": f"a{mark}b"}, *QUESTION]
    with pytest.raises(UsageError, match="mark"):
        inference(said)
    assert inference([{"role": "user", "content": mark}])["prompt"] == {"user": mark}
