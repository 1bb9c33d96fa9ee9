"""A slot without an engine: the real edge and application over a service that answers from a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn

from llmctl.domain import Chunk, GenerateRequest, Identity, Limits, MediaPolicy, Task, TokenLogprob, Usage
from llmctl.errors import LlmctlError, RequestError
from llmctl.runner.app import make_app
from llmctl.runner.auth import Auth
from llmctl.runner.edge import Drain, make_protocol
from llmctl.runner.intake import Bodies
from llmctl.runner.metrics import Metrics
from llmctl.runner.websocket_edge import WebSocketEdge

DEADLINE = 30.0
GOOD = {"messages": [{"role": "user", "content": "hi"}]}


class FakeStream:
    """The words of one answer, `pause` seconds apart, one batch a word (or all at once without a pause)."""

    model = "alpha"
    prompt_tokens = 3

    def __init__(self, service: FakeService, request: GenerateRequest) -> None:
        self.service, self.request = service, request
        self.cancelled = self.closed = False

    async def __aiter__(self) -> AsyncIterator[Sequence[Chunk]]:
        request, words = self.request, self.service.words
        for chunk in self.service.chunks:
            yield [replace(chunk, id=request.id)]
        if self.service.chunks:
            return
        for at, word in enumerate(words):
            if self.service.fail_at == at:
                raise self.service.failure
            if self.service.pause:
                await asyncio.sleep(self.service.pause)
            logprobs = (TokenLogprob(word, at, -0.5, ((word, at, -0.5),)),) if request.logprobs is not None else ()
            yield [Chunk(request.id, i, word, 1, logprobs=logprobs) for i in range(request.n)]
        last = [Chunk(request.id, i, finish="stop") for i in range(request.n - 1)]
        usage = Usage(3, len(words) * request.n, 1)
        yield [*last, Chunk(request.id, request.n - 1, finish="length", usage=usage)]

    def cancel(self) -> None:
        self.cancelled = True

    async def __aenter__(self) -> FakeStream:
        self.service.active += 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.service.active -= 1
        self.closed = True


@dataclass
class FakeService:
    """runner.service.Service, played."""

    limits: Limits = field(default_factory=Limits)
    words: Sequence[str] = ("Hello", " wörld", " \U0001f600", "!")
    chunks: Sequence[Chunk] = ()  # what is answered instead of the words, one batch a chunk
    pause: float = 0.0
    refusal: LlmctlError | None = None
    fail_at: int | None = None
    failure: BaseException = field(default_factory=lambda: RequestError("engine died", status=500, code="engine_died"))
    accept_after: float = 0.0
    state: dict[str, Any] = field(default_factory=lambda: {"verdict": "ok", "state": "ready", "ready": True})
    active: int = 0
    waiting: int = 0
    loaded: Identity | None = Identity("alpha", "scripted", "scripted", 1024, 1000, 4, memory_bytes=123)
    seen: list[GenerateRequest] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    media: MediaPolicy = field(default_factory=MediaPolicy)
    values: dict[str, Any] = field(default_factory=dict)  # what `ask` answers, by verb: it, or a function of the task

    def check_model(self, name: str | None) -> None:
        if name not in (None, "", "alpha", "default"):
            raise RequestError("no such model", status=404, code="model_not_found", param="model")

    def identity(self) -> Identity | None:
        return self.loaded

    def served_names(self) -> Sequence[str]:
        return ("alpha", "first")

    def health(self) -> Mapping[str, Any]:
        return {"model": "alpha", "wedged": False, "active": self.active, "queued": 2, "why": "secret", **self.state}

    def figures(self) -> Mapping[str, int | None]:
        return {"queue_limit": 128, "resident": 456, "held": 7}

    async def generate(self, request: GenerateRequest) -> FakeStream:
        self.seen.append(request)
        self.waiting += 1
        try:
            await asyncio.sleep(self.accept_after)
        finally:
            self.waiting -= 1
        if self.refusal:
            raise self.refusal
        return FakeStream(self, request)

    async def ask(self, task: Task) -> Mapping[str, Any]:
        self.tasks.append(task)
        if self.refusal:
            raise self.refusal
        value = self.values.get(task.verb, {})
        return value(task) if callable(value) else value


@dataclass
class FakeSlot:
    """A served FakeService; the same shape as a RunningSlot where bad input is concerned."""

    service: FakeService
    port: int
    drain: Drain
    metrics: Metrics
    server: uvicorn.Server
    bodies: Bodies

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def serve(service: FakeService | None = None, auth: Auth | None = None) -> Iterator[FakeSlot]:
    """A FakeSlot on a free port, in a thread of its own."""
    service = service or FakeService()
    drain, metrics = Drain(), Metrics()
    sock = socket.create_server(("127.0.0.1", 0))
    app = make_app(service, auth or Auth("127.0.0.1", None), metrics)
    protocol = make_protocol(service.limits, drain, metrics.refused)
    config = uvicorn.Config(app, http=protocol, ws=WebSocketEdge, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield FakeSlot(service, sock.getsockname()[1], drain, metrics, server, protocol.bodies)
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@dataclass
class Response:
    """What came back on a raw connection. `closed`: the server ended the connection after it."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool = False

    def json(self) -> Any:
        return json.loads(self.body)


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.settimeout(DEADLINE)
    return sock


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request in bytes; Content-Length unless a header says otherwise."""
    given = " ".join(headers).lower()
    if "content-length" not in given and "transfer-encoding" not in given:
        headers = (*headers, f"Content-Length: {len(body)}")
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def read_response(sock: socket.socket) -> Response:
    """One response; a body without a length is read to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, rest = data.partition(b"\r\n\r\n")
    body = bytearray(rest)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _some(sock)
    while headers.get("transfer-encoding") == "chunked" and not body.endswith(b"0\r\n\r\n"):
        body += _some(sock)
    return Response(int(first.split()[1]), headers, bytes(body))


def dechunk(body: bytes) -> bytes:
    """The content of a chunked body."""
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        content += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return content


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection before the end of its answer")
    return data


def raw(port: int, *pieces: bytes) -> Response:
    """Send bytes as they are; the response, and whether the server then closes."""
    with connect(port) as sock:
        for piece in pieces:
            with contextlib.suppress(ConnectionError):  # it may answer and stop reading before we are through
                sock.sendall(piece)
        response = read_response(sock)
        if response.headers.get("connection") == "close":
            response.closed = sock.recv(1) == b""
        return response
