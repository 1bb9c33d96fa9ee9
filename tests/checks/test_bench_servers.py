"""`bench run --compare`: servers that are not ours, as they really answer over sockets, good ones and bad ones."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from llmctl.checks.bench import Load, measure
from llmctl.checks.bench_client import SHARED, Prompt, Server, Way, agreed
from llmctl.clients import urls
from llmctl.clients.openai import OpenAI
from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError, Unreachable
from tests.checks.test_bench import Bench, bench
from tests.conftest import RunningSlot

__all__ = ["bench"]
Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]
QUICK = ("--requests", "2", "--prompt", "16", "--new", "4", "--runs", "2")
ASKED = Prompt((1, 2, 3), "once upon a time")


@dataclass
class Elsewhere:
    """How another server answers. `takes` are the fields that it knows, None: all; `stall` is seconds before the end,
    `dies_after` answers."""

    chat_only: bool = False
    usage: bool = True
    takes: set[str] | None = None
    key: str | None = None
    stall: float = 0.0
    dies_after: int = 10**6
    cut: bool = False
    models: tuple[str, ...] = ("its-model",)
    whole: bool = False
    empty: bool = False
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., tuple[str, Elsewhere]]]:
    """elsewhere(usage=False, …) → the URL of a running server, and how it answers."""
    servers = []

    def start(**ways: Any) -> tuple[str, Elsewhere]:
        how = Elsewhere(**ways)
        server = Listener(("127.0.0.1", 0), type("Handler", (Handler,), {"how": how}))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", how

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Listener(http.server.ThreadingHTTPServer):
    """It says nothing of clients that hang up or send nonsense."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    how: Elsewhere

    def do_GET(self) -> None:
        if self._welcome():
            self._json(200, {"data": [{"id": name} for name in self.how.models]})

    def do_POST(self) -> None:
        how = self.how
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._welcome():
            return None
        if how.chat_only and not self.path.endswith("/chat/completions"):
            return self._error(404, "there is no such route")
        if how.takes is not None and (unknown := set(body) - how.takes):
            return self._error(400, f"unknown field {sorted(unknown)[0]}")
        how.asked.append((self.path, body))
        if len(how.asked) > how.dies_after:
            self.connection.close()
        elif how.whole:
            self._whole(body)
        else:
            self._stream(body)
        return None

    def _stream(self, body: dict[str, Any]) -> None:
        chat, new = self.path.endswith("/chat/completions"), 0 if self.how.empty else body.get("max_tokens", 4)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for n in range(new):
            piece: dict[str, Any] = {"delta": {"content": f"w{n} "}} if chat else {"text": f"w{n} "}
            self._event({"choices": [{"index": 0, "finish_reason": None, **piece}]})
            time.sleep(0.002)
        time.sleep(self.how.stall)
        if self.how.cut:
            return
        end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        self._event({"choices": [{"index": 0, "finish_reason": "length", **end}]})
        if self.how.usage:
            self._event({"choices": [], "usage": {"prompt_tokens": 16, "completion_tokens": new}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _whole(self, body: dict[str, Any]) -> None:
        choice = {"index": 0, "text": "w " * body["max_tokens"], "finish_reason": "length"}
        usage = {"prompt_tokens": 16, "completion_tokens": body["max_tokens"]}
        self._json(200, {"model": "its-model", "choices": [choice], "usage": usage})

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps({'model': self.how.models[0], **event})}\n\n".encode())
        self.wfile.flush()

    def _welcome(self) -> bool:
        welcome = self.how.key is None or self.headers.get("Authorization") == f"Bearer {self.how.key}"
        if not welcome:
            self._json(401, {"error": {"message": "who are you?", "code": "invalid_api_key"}})
        return welcome

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"error": {"message": message, "code": "bad"}})

    def _json(self, status: int, data: Any) -> None:
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


def server(url: str, patience: float = 30.0) -> Server:
    client = urls.client(url, None, None)
    assert isinstance(client, OpenAI)
    return Server(client.place, url, client.model, patience)


# ── one server ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_those_that_the_server_counted(elsewhere: Callable[..., tuple[str, Elsewhere]]) -> None:
    url, how = elsewhere()
    seen = server(url).timed(ASKED, 5, Way())
    assert (seen.prompt, seen.new, seen.counted, seen.model) == (16, 5, True, "its-model")
    assert 0 < seen.first < seen.seconds
    path, body = how.asked[0]
    assert path == "/v1/completions" and body["prompt"] == "once upon a time" and body["ignore_eos"]
    assert body["model"] == "its-model" and body["stream_options"] == {"include_usage": True}


def test_without_a_count_pieces_are_counted_and_it_is_said(elsewhere: Callable[..., tuple[str, Elsewhere]]) -> None:
    seen = server(elsewhere(usage=False)[0]).timed(ASKED, 5, Way())
    assert (seen.prompt, seen.new, seen.counted) == (0, 5, False)


def test_a_server_that_answers_in_one_piece_has_no_rate(elsewhere: Callable[..., tuple[str, Elsewhere]]) -> None:
    seen = server(elsewhere(whole=True)[0]).timed(ASKED, 5, Way())
    assert seen.new == 5 and seen.first == pytest.approx(seen.seconds, abs=0.5)


@pytest.mark.parametrize(
    ("ways", "says"),
    [
        ({"cut": True}, "ended before its end"),
        ({"dies_after": 0}, "no answer"),
        ({"empty": True, "usage": False}, "no token"),
    ],
)
def test_a_server_that_breaks_off_is_named(
    elsewhere: Callable[..., tuple[str, Elsewhere]], ways: dict[str, Any], says: str
) -> None:
    url, _ = elsewhere(**ways)
    with pytest.raises(LlmctlError, match=says) as caught:
        server(url).timed(ASKED, 5, Way())
    assert url in caught.value.message


def test_one_that_drips_is_cut_at_the_deadline(elsewhere: Callable[..., tuple[str, Elsewhere]]) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"did not answer within 0\.5 s"):
        server(elsewhere(stall=60.0)[0], patience=0.5).timed(ASKED, 5, Way())
    assert time.monotonic() - began < 20


def test_after_an_error_nothing_more_is_asked(elsewhere: Callable[..., tuple[str, Elsewhere]]) -> None:
    url, how = elsewhere(dies_after=0)
    with pytest.raises(Unreachable):
        measure(server(url), [ASKED] * 50, Load(50, 3, 4), Way())
    assert len(how.asked) < 10


# ── two servers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_both_are_asked_in_the_best_way_that_both_take(elsewhere: Callable[..., tuple[str, Elsewhere]]) -> None:
    plain = {"model", "prompt", "messages", "max_tokens", "temperature", "stream", "stream_options"}
    free, strict, chat = elsewhere()[0], elsewhere(takes=plain)[0], elsewhere(chat_only=True)[0]
    assert agreed([server(free)], ASKED) == SHARED[0]
    assert agreed([server(free), server(strict)], ASKED) == Way(forced=False)
    assert agreed([server(free), server(chat)], ASKED) == Way(chat=True)
    assert agreed([server(strict), server(chat)], ASKED) == Way(forced=False, chat=True)
    none = elsewhere(takes={"model"})[0]
    with pytest.raises(LlmctlError, match="unknown field"):
        agreed([server(none)], ASKED)
    dead, how = elsewhere(dies_after=0)
    with pytest.raises(Unreachable):
        agreed([server(dead)], ASKED)
    assert len(how.asked) == 1  # who breaks off once is not asked in another way


def test_ratios_of_a_slot_and_a_server(
    bench: Bench, slots: Slots, script: Script, elsewhere: Callable[..., tuple[str, Elsewhere]]
) -> None:
    slot = slots(script("alpha"))
    url, how = elsewhere()
    code, data, _ = bench("run", slot.port, *QUICK, "--compare", url)
    (cell,) = data["cells"]
    assert code == 0 and data["other"] == url and cell["other"]["model"] == "its-model"
    assert (cell["new_tokens"], cell["other"]["new_tokens"]) == (16, 16)
    ours, its = cell["tokens_per_second"], cell["other"]["tokens_per_second"]
    assert ours["low"] / its["high"] <= cell["ratio"]["tokens_per_second"]["median"] <= ours["high"] / its["low"]
    measured = [body["prompt"] for _, body in how.asked[-4:]]
    assert len(set(measured)) == 4  # each new, run by run


def test_the_other_one_that_dies_leaves_what_was_measured(
    bench: Bench, slots: Slots, script: Script, elsewhere: Callable[..., tuple[str, Elsewhere]]
) -> None:
    slot = slots(script("alpha"))
    url, _ = elsewhere(dies_after=9)  # to agree, to warm up, two runs of two; then twice of the next load
    code, data, errors = bench("run", slot.port, *QUICK, "--new", "4,8", "--compare", url)
    assert (code, [cell["new"] for cell in data["cells"]], errors[0]["code"]) == (3, [4], "unreachable")
    assert url in errors[0]["message"]


def test_who_refuses_and_who_is_not_there(
    bench: Bench,
    slots: Slots,
    script: Script,
    elsewhere: Callable[..., tuple[str, Elsewhere]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slot = slots(script("alpha"))
    url, how = elsewhere(key="canary-key")
    code, _, errors = bench("run", slot.port, *QUICK, "--compare", url)
    assert code == 1 and "who are you?" in errors[0]["message"] and "--key-env" in errors[0]["hint"]
    monkeypatch.setenv("OTHER_KEY", "canary-key")
    code, data, _ = bench("run", slot.port, *QUICK, "--compare", url, "--key-env", "OTHER_KEY")
    assert code == 0 and "canary-key" not in json.dumps(data) and how.asked
    for file in slot.home.rglob("*"):
        assert not file.is_file() or b"canary-key" not in file.read_bytes(), file

    code, _, errors = bench("run", slot.port, *QUICK, "--compare", "http://127.0.0.1:9")
    assert code == 4 and "no answer from http://127.0.0.1:9" in errors[0]["message"]
    many, _ = elsewhere(models=("a", "b"))
    code, _, errors = bench("run", slot.port, *QUICK, "--compare", many)
    assert code == 2 and errors[0]["hint"].startswith("--compare-model NAME")
    assert bench("run", slot.port, *QUICK, "--compare", many, "--compare-model", "a")[0] == 0
    assert bench("run", slot.port, *QUICK, "--compare", "8999")[2][0]["code"] == "unknown_name"
