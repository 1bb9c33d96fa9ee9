"""A slot asked over HTTP as its clients ask it, each request with a deadline; every answer is greedy."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.clients.openai import ANYWHERE, error_of, events
from llmctl.domain import EMBED
from llmctl.errors import LlmctlError, Unreachable

SEED = 42
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
METRICS = 2**19
"""Bytes of a page of metrics; a slot's has a hundredth of that."""


@dataclass(frozen=True)
class Token:
    """One token of an answer: its text, its log-probability, and how far the second likeliest was behind."""

    text: str
    logprob: float
    gap: float


@dataclass(frozen=True)
class Said:
    """One answer. `tokens` are there where log-probabilities were asked for; `count` is what the slot counted, `prompt`
    the tokens of the prompt, and `cached` those of them that were not computed again. `first` is seconds until text
    came, of a stream."""

    model: str
    text: str
    finish: str | None
    seconds: float
    count: int = 0
    tokens: tuple[Token, ...] = ()
    prompt: int = 0
    cached: int = 0
    first: float = 0.0

    @property
    def rate(self) -> float | None:
        """Tokens/s from the first text on; None where that cannot be said."""
        return (self.count - 1) / (self.seconds - self.first) if self.count > 1 and self.seconds > self.first else None


class SlotHttp:
    """One slot's API. `timeout` bounds each whole request, in seconds; it ends with Unreachable."""

    def __init__(self, address: str, port: int, key: str | None, timeout: float) -> None:
        self.address, self.port, self.timeout = ANYWHERE.get(address, address), port, timeout
        self.headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.chats = True
        self._model: Mapping[str, Any] = {}  # what the slot says of its model, once an engine is loaded

    def models(self) -> list[str]:
        """The names that the slot answers to, its model first."""
        return [str(one["id"]) for one in self._listed()]

    def modalities(self) -> Mapping[str, Sequence[str]]:
        """What its model takes and makes: {"input", "output"}; nothing while there is no engine."""
        found: Mapping[str, Sequence[str]] = self._described().get("modalities") or {}
        return found

    def numbers(self, text: str) -> list[float]:
        """The vector of a text, or its score beside itself, of a model that makes no text."""
        if EMBED in self._described()["capabilities"]:
            with self._asked("POST", "/v1/embeddings", {"input": text}) as response:
                return [float(number) for number in json.loads(response.read())["data"][0]["embedding"]]
        with self._asked("POST", "/v1/rerank", {"query": text, "documents": [text]}) as response:
            return [float(json.loads(response.read())["results"][0]["relevance_score"])]

    def metrics(self) -> str:
        """What the slot counts, as Prometheus reads it; no more than METRICS bytes of it."""
        with self._asked("GET", "/metrics", None) as response:
            return response.read(METRICS).decode(errors="replace")

    def tokenized(self, text: str) -> list[int]:
        """The ids of a text, as of a prompt."""
        with self._asked("POST", "/tokenize", {"prompt": text}) as response:
            return [int(id) for id in json.loads(response.read())["tokens"]]

    def dtype(self) -> str:
        """In what its model computes, where the engine says it."""
        return str(self._described().get("dtype") or "")

    def _described(self) -> Mapping[str, Any]:
        if not self._model.get("modalities"):
            self._model = self._listed()[0]
        return self._model

    def _listed(self) -> list[Mapping[str, Any]]:
        with self._asked("GET", "/v1/models", None) as response:
            found: list[Mapping[str, Any]] = json.loads(response.read())["data"]
            return found

    def whole(self, prompt: str, max_tokens: int, **fields: Any) -> Said:
        """One answer in one piece, with its tokens."""
        began = time.monotonic()
        body = {**self._body(prompt, max_tokens), **self._logprobs(), **fields}
        with self._asked("POST", self._path, body) as response:
            answer = json.loads(response.read())
            choice, usage = answer["choices"][0], answer["usage"]
            text = choice["message"]["content"] if self.chats else choice["text"]
            return Said(
                str(answer["model"]), text, choice["finish_reason"], time.monotonic() - began,
                usage["completion_tokens"], self._tokens(choice["logprobs"]), usage["prompt_tokens"],
                (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            )  # fmt: skip

    def streamed(self, prompt: str, max_tokens: int, **fields: Any) -> Said:
        """One answer as a stream, put together."""
        began = time.monotonic()
        model, text, finish, first, count = "", "", None, 0.0, 0
        with self._stream(prompt, max_tokens, {"stream_options": {"include_usage": True}, **fields}) as found:
            for event in found:
                model = event.get("model") or model
                count = (event.get("usage") or {}).get("completion_tokens") or count
                for choice in event["choices"]:
                    text += self._piece(choice)
                    first = first or (time.monotonic() - began if text else 0.0)
                    finish = choice["finish_reason"] or finish
        return Said(model, text, finish, time.monotonic() - began, count, first=first)

    def hung_up(self, prompt: str, max_tokens: int, **fields: Any) -> Iterator[None]:
        """Yields once an answer has begun to come, and hangs up in the middle of it when it is taken up again."""
        with self._stream(prompt, max_tokens, fields) as found:
            for event in found:
                if any(self._piece(choice) for choice in event["choices"]):
                    yield
                    return

    def find_protocol(self, prompt: str) -> None:
        """Ask for plain completions from now on where the model has no chat template."""
        try:
            self.whole(prompt, 1)
        except LlmctlError as error:
            self.without_chat(error)

    def without_chat(self, error: LlmctlError) -> None:
        """Ask for plain completions from now on if that is what `error` means; else it is raised."""
        if error.details.get("param") != "messages" or not self.chats:
            raise error
        self.chats = False

    # ── one request ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _path(self) -> str:
        return CHAT if self.chats else COMPLETIONS

    def _body(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.chats else {"prompt": prompt}
        return {**asked, "max_tokens": max_tokens, "temperature": 0, "seed": SEED}

    def _logprobs(self) -> dict[str, Any]:
        return {"logprobs": True, "top_logprobs": 2} if self.chats else {"logprobs": 2}

    def _piece(self, choice: Mapping[str, Any]) -> str:
        return str((choice["delta"].get("content") if self.chats else choice["text"]) or "")

    def _tokens(self, logprobs: Mapping[str, Any]) -> tuple[Token, ...]:
        if self.chats:
            content = logprobs["content"]
            rows = [(t["token"], t["logprob"], [top["logprob"] for top in t["top_logprobs"]]) for t in content]
        else:
            tops = [list((top or {}).values()) for top in logprobs["top_logprobs"]]
            rows = list(zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True))
        return tuple(Token(text, logprob, _gap(tops)) for text, logprob, tops in rows)

    @contextlib.contextmanager
    def _stream(
        self, prompt: str, max_tokens: int, fields: Mapping[str, Any]
    ) -> Iterator[Generator[dict[str, Any], None, None]]:
        with self._asked("POST", self._path, {**self._body(prompt, max_tokens), "stream": True, **fields}) as response:
            yield events(response, self.port)

    @contextlib.contextmanager
    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
        """The response of a request, cut at the deadline. Unreachable, or the slot's own error."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=self.timeout)
        try:
            connection.connect()
            with _cut_after(self.timeout, connection.sock) as late:
                try:
                    connection.request(method, path, json.dumps(body) if body else None, self.headers)
                    with connection.getresponse() as response:
                        if response.status != 200:
                            refusal = error_of(response.read(), self.port, f"HTTP {response.status}")
                            refusal.details["status"] = response.status
                            raise refusal
                        yield response
                except (OSError, http.client.HTTPException) as error:
                    if not late.is_set() and not isinstance(error, TimeoutError):
                        raise Unreachable(f"port {self.port} broke off: {error!r}", port=self.port) from None
                    late.set()
                except (ValueError, LookupError, TypeError) as error:
                    if not late.is_set():
                        raise LlmctlError(f"port {self.port} answered nonsense: {error!r}", port=self.port) from None
                if late.is_set():
                    raise Unreachable(f"port {self.port} did not answer within {self.timeout:g} s", port=self.port)
        except OSError as error:
            raise Unreachable(f"nothing answers on port {self.port}: {error}", port=self.port) from None
        finally:
            connection.close()


@contextlib.contextmanager
def _cut_after(seconds: float, sock: socket.socket) -> Iterator[threading.Event]:
    """Within, the connection is shut down when the time is over, which the event then tells."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _gap(tops: list[float]) -> float:
    """How far apart the two likeliest are; infinite where there is only one."""
    first, second = (*sorted(tops, reverse=True)[:2], float("-inf"))[:2] if tops else (0.0, float("-inf"))
    return first - second
