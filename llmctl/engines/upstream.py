"""Any server that speaks OpenAI's dialect as an engine: started and watched here, or attached to where it runs.

`EngineSpec.options["server"]` is a `servers.Server`; `options["load_timeout"]` the seconds until it must be ready.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from llmctl.domain import (
    ENGINE,
    TEXT,
    TIME,
    Done,
    Emit,
    EngineSpec,
    Failure,
    GenerateRequest,
    Identity,
    Progress,
    Started,
    Task,
)
from llmctl.engines import upstream_child, upstream_errors, upstream_request
from llmctl.engines.upstream_answer import Answer, Events, whole, wrong
from llmctl.engines.upstream_link import Link
from llmctl.engines.upstream_start import identified, ready
from llmctl.errors import LlmctlError, RequestError, Unsupported
from llmctl.servers import Server, from_options, mistakes

SHAPES = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # met while an answer of another shape is read
LOOK = 2.0  # seconds between looks at a server that is silent or idle
REFUSALS = 2  # looks in a row at which nothing listened: it is gone
LINGER = 2.0  # seconds after an answer's last word for the rest that counts its tokens


def check(spec: EngineSpec) -> None:
    """Unsupported for an entry that cannot work, and for a program that is not on this host."""
    server = read(spec)
    for key, problem, hint in mistakes(server):
        raise Unsupported(f"{spec.model}: {key}: {problem}", hint=hint)
    if server.command:
        upstream_child.check_program(server, spec.model)
    if server.key_env and not os.environ.get(server.key_env):
        raise Unsupported(
            f"{spec.model}: the variable {server.key_env}, which holds its server's key, is not set",
            hint=f"set {server.key_env} in the environment of the slot server",
        )


def read(spec: EngineSpec) -> Server:
    """The server of a spec; Unsupported when there is none."""
    try:
        return from_options(spec.options["server"])
    except (KeyError, TypeError) as error:
        raise Unsupported(f"{spec.model}: its entry says nothing of a server ({error})") from error


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Upstream:
    """Start or find the server, wait until it is ready, and hold its name against what was asked for."""
    server = read(spec)
    deadline = time.monotonic() + float(spec.options.get("load_timeout") or 600.0)
    if server.command and not server.memory:
        print("upstream: no memory is reserved for this server: `memory` in its entry says how much", flush=True)
    engine = Upstream(spec, server, emit)
    try:
        progress("server", 0, 0)
        ready(engine.link, server, spec.model, deadline, lambda: engine.child.ended if engine.child else None)
        engine.identity = identified(engine.link, spec, server)
    except BaseException:
        engine.close()
        raise
    engine.watch()
    return engine


class Upstream:
    """The Engine. A coroutine for each request turns the server's events into ours.

    `steps` grows with everything that shows life: what the server sends, and its health while it is silent.
    """

    identity: Identity

    def __init__(self, spec: EngineSpec, server: Server, emit: Emit) -> None:
        self.spec, self.server, self.emit = spec, server, emit
        self.name = server.name(spec.model, spec.path)
        self.steps = 0
        self.child: upstream_child.Child | None = None
        self._heard = time.monotonic()
        self._live: dict[str, Future[None]] = {}
        self._fatal: str | None = None
        self._told = False
        self._resting = False
        url = server.url
        if url is None:
            self.child = upstream_child.launch(spec, server, self._child_gone)
            url = self.child.url
        key = os.environ.get(server.key_env) if server.key_env else None
        self.link = Link(url, key, server.stall)

    # ── the engine protocol ─────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, request: GenerateRequest) -> None:
        if TEXT not in self.identity.outputs:
            raise RequestError(f"{self.identity.model} generates no text", code="unsupported_task")
        if request.adapter is not None and request.adapter not in self.identity.adapters:
            raise RequestError(f"no adapter {request.adapter[:100]!r}", param="adapter", code="adapter_not_found")
        if request.media and "image" not in self.identity.inputs:
            raise RequestError(f"{self.identity.model} takes no images", param="messages", code="unsupported_media")
        path, bodies = upstream_request.bodies(request, self.server, self.name, self.identity)
        self._begin(request.id, self._generate(request, path, bodies))

    def ask(self, task: Task) -> None:
        path, body, read = upstream_request.task(task, self.server, self.name, self.identity)

        async def answer() -> None:
            try:
                self.emit(Done(task.id, read(await self.link.json("POST", path, body))))
            except LlmctlError as error:
                self.emit(Failure(task.id, error.to_dict()))
            except SHAPES as error:
                self.emit(Failure(task.id, wrong(error).to_dict()))

        self._begin(task.id, answer())

    def cancel(self, id: str) -> None:
        if work := self._live.get(id):
            work.cancel()

    def step(self) -> bool:
        """The work is done elsewhere; here only the end of a server is seen."""
        if self._fatal and not self._live:
            if not self._told:
                self._told = True  # the errors of the last requests go out first
                return True
            self.close()
            self.emit(Failure(ENGINE, upstream_errors.gone(self._fatal).to_dict()))
        return False

    def close(self) -> None:
        for work in list(self._live.values()):
            work.cancel()
        if self.child:
            child, self.child = self.child, None
            child.close()
        self.link.close()

    # ── sleep ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def rest(self) -> None:
        """Have the server give back its accelerator's memory; nothing is in flight. LlmctlError when it does not."""
        self._resting = True
        self.link.run(self.link.call("POST", "/sleep?level=1"))

    def wake(self) -> None:
        """Undo `rest`; answers come as before afterwards."""
        self.link.run(self.link.call("POST", "/wake_up"))
        self._resting = False

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, id: str, work: Any) -> None:
        if not self._live:
            self._heard = time.monotonic()
        future = self.link.start(work)
        self._live[id] = future
        future.add_done_callback(lambda _: self._live.pop(id, None))

    async def _generate(self, request: GenerateRequest, path: str, bodies: list[dict[str, Any]]) -> None:
        answer = Answer(request)
        each = request.n // len(bodies)
        started = False

        def accepted() -> None:
            nonlocal started
            if not started:
                started = True
                self.emit(Started(request.id, 0))
                self._emit(answer.opening())

        tasks = [
            asyncio.ensure_future(self._stream(answer, path, body, i * each, each, accepted))
            for i, body in enumerate(bodies)
        ]
        try:
            await asyncio.wait_for(asyncio.gather(*tasks), request.time_cap)
        except asyncio.CancelledError:
            self._emit(answer.broken_off())
        except (asyncio.TimeoutError, TimeoutError):
            accepted()
            self._emit(answer.broken_off(TIME))
        except LlmctlError as error:
            self.emit(Failure(request.id, self._explained(error).to_dict()))
        except SHAPES as error:
            self.emit(Failure(request.id, wrong(error).to_dict()))
        finally:
            for task in tasks:
                task.cancel()

    async def _stream(
        self, answer: Answer, path: str, body: Mapping[str, Any], first: int, count: int, accepted: Any
    ) -> None:
        """One request to the server, and the chunks of its answer; leaving it closes the connection."""
        async with self.link.answer("POST", path, body, answer.field) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            if kind == "application/json":
                said = whole(await self.link.read(response))
                accepted()
                self._emit(answer.take(said, first))
            elif kind == "text/event-stream":
                accepted()
                await self._events(answer, response, first, count)
            else:
                raise upstream_errors.garbage(f"an answer of type {kind[:40] or 'nothing'!r}")
            self._emit(answer.end(first, count))

    async def _events(self, answer: Answer, response: Any, first: int, count: int) -> None:
        """Until the terminator, the end of the bytes, or a while after all that matters was said."""
        events, pieces = Events(), response.aiter_bytes()
        while True:
            if answer.needs_no_more(first, count):
                return
            complete = answer.complete(first, count)
            try:
                piece = await (asyncio.wait_for(anext(pieces), LINGER) if complete else anext(pieces))
            except StopAsyncIteration:
                return
            except (asyncio.TimeoutError, TimeoutError):
                return
            self.steps += 1
            self._heard = time.monotonic()
            for said in events.feed(piece):
                if said is None:
                    return
                self._emit(answer.take(said, first))

    def _emit(self, chunks: Iterable[Any]) -> None:
        for chunk in chunks:
            self.emit(chunk)

    def _explained(self, error: LlmctlError) -> LlmctlError:
        """A broken connection, when it is known that the server is no more."""
        if self.child and self.child.ended is not None and error.code in ("upstream_cut", "upstream_gone"):
            return upstream_errors.gone(f"ended with exit status {self.child.ended}")
        return error

    # ── its server's life ───────────────────────────────────────────────────────────────────────────────────────────

    def _child_gone(self) -> None:
        """Called from a thread: the process ends once every request has its error."""
        if child := self.child:
            self._end(f"ended with exit status {child.ended}")

    def _end(self, why: str) -> None:
        self._fatal = self._fatal or why

    def watch(self) -> None:
        """Look after the server from now on."""
        self.link.start(self._watch())

    async def _watch(self) -> None:
        path = self.server.ready or self.server.traits.ready
        refused = 0
        while self._fatal is None:
            await asyncio.sleep(LOOK)
            idle = self.child is not None and not self._live  # its end is seen without asking
            if idle or self._resting or time.monotonic() - self._heard < LOOK:
                continue
            status = await self.link.status(path, LOOK * 2)
            refused = refused + 1 if status == 0 else 0
            if status is not None and 0 < status < 500:
                self.steps += 1
                self._heard = time.monotonic()
            if refused == REFUSALS:
                self._end("does not listen any more")
