"""What a request meets: who may come in, what the gateway answers itself, and who is asked for the rest."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

from llmctl.domain import Limits
from llmctl.errors import LlmctlError, RequestError, UnknownName
from llmctl.gateway import asked as asking
from llmctl.gateway import balance, jobs, progress, shapes, stays, unloaded
from llmctl.gateway.asked import Asked
from llmctl.gateway.callers import Caller, Callers
from llmctl.gateway.counts import Counts
from llmctl.gateway.course import Again, Course
from llmctl.gateway.demand import Demand
from llmctl.gateway.front import Front, Work
from llmctl.gateway.jobs import Jobs
from llmctl.gateway.pipe import SOCKETS, Pipe
from llmctl.gateway.registry import Handle, Registry
from llmctl.gateway.relay import Relay
from llmctl.gateway.replicas import Replicas, Way
from llmctl.gateway.request import Request
from llmctl.gateway.spent import Meters
from llmctl.gateway.usage import Usage
from llmctl.runner.auth import Auth
from llmctl.runner.edge import Drain
from llmctl.runner.intake import Bodies

Own = Callable[[Front, Request, Caller | None], None]
Done = Callable[[Relay | Pipe | None, int], None]


class Gate:
    """All that the connections of one gateway share. `own` are the routes that it answers itself, by path."""

    def __init__(
        self, limits: Limits, auth: Auth, keyless: bool, callers: Callers, replicas: Replicas, own: dict[str, Own],
        demand: Demand, counts: Counts, meters: Meters, log: Callable[..., None],
    ) -> None:  # fmt: skip
        self.limits, self.auth, self.keyless, self.callers = limits, auth, keyless, callers
        self.replicas, self.own, self.demand, self.counts = replicas, own, demand, counts
        self.meters, self.log = meters, log
        self.bodies, self.jobs = Bodies(), Jobs()
        self.connections: set[Front] = set()
        self.drain = Drain()
        self.registry = Registry()
        self.asking: dict[Front, Caller] = {}  # whose requests are under way

    def refused(self, status: int, /) -> None:
        self.counts.refused(status)

    def look(self) -> None:
        """Read the keys where they have changed; what a key has under way that is none any more ends."""
        self.callers.fresh()
        for front, caller in list(self.asking.items()):
            now = self.callers.known.get(caller.sha256)
            if (now is None or now.revoked is not None) and front.work:
                front.work.stop(_revoked(caller))

    def serve(self, front: Front, request: Request) -> Work | None:
        path = request.path
        shape = shapes.of(path)
        try:
            caller = None
            self.auth.check_source(request.scope())
            if path != "/health":
                caller = self._caller(request)
            if request.websocket:
                return self._pipe(front, request, caller)
            if own := self._own(path):
                _method(request, "GET", "HEAD")
                own(front, request, caller)
                return None
            if path not in shapes.PASSED and not path.startswith(jobs.PATH + "/"):
                raise RequestError("there is no such route", status=404, code="not_found")
            return self._pass(front, request, caller, shape)
        except RequestError as error:
            self.counts.refused(error.status)
            front.error(error, shape.error)
        except UnknownName as error:
            self.counts.refused(404)
            unknown = RequestError(error.message, status=404, code="model_not_found", param="model")
            unknown.hint = error.hint
            front.error(unknown, shape.error)
        except LlmctlError as error:
            front.error(RequestError(error.message, status=500, code=error.code), shape.error)
        except Exception as error:  # one request's end, not its connection's
            asyncio.get_running_loop().call_exception_handler({"message": f"{path} failed", "exception": error})
            front.error(RequestError("the gateway failed", status=500, code="internal_error"), shape.error)
        return None

    def _own(self, path: str) -> Own | None:
        found = self.own.get(path)
        return found or (self.own["/v1/models/"] if path.startswith("/v1/models/") else None)

    def _caller(self, request: Request) -> Caller | None:
        """Whose request it is; None: anybody's, where no key is needed."""
        found = self.callers.of(_presented(request))
        if found and found.revoked is not None:
            raise _revoked(found)
        if found is None and not self.keyless:
            self.auth.require("client", request.scope())
        return found

    def _pass(self, front: Front, request: Request, caller: Caller | None, shape: shapes.Shape) -> Work | None:
        asked, model, where = None, None, None
        if request.path in shapes.PASSED:
            _method(request, "POST")
            try:
                asked = asking.read(request.body)
                model = asked.model
            except RequestError:
                if not self.registry.handles:
                    raise
                # what is wrong with it the slot says best: it goes on as it is, to whoever answers by default
        else:
            model, where = self.jobs.find(caller.name if caller else None, request.path)
        handle = self.handle(caller, model)
        chain = self._chain(caller, handle)
        if not any(one.on_demand for one in chain):
            done = self._counted(front, request.path, caller, handle, asked)
            return Relay(front, request, self._ways(chain, asked, where), shape, done).start()
        wish, streams = request.header(progress.HEADER), asked.streams if asked else False
        telling = progress.of(request.path, streams, wish, model or handle.name)
        keep = stays.wished(request.path, request.header(stays.HEADER), asked)
        if said := self._at_once(request.path, handle, asked, keep):
            front.json(said)
            return None

        def send(handles: list[Handle], begun: bool, again: Again, done: Done) -> Work:
            return Relay(front, request, self._ways(handles, asked, where), shape, done, begun, again).start()

        done = self._counted(front, request.path, caller, handle, asked)
        return Course(front, shape, chain, self.demand, telling, keep, send, done).go()

    def _at_once(
        self, path: str, handle: Handle, asked: Asked | None, keep: float | None
    ) -> dict[str, Any] | None:  # fmt: skip
        """The answer about a model that is on demand for which it is not loaded."""
        if not handle.on_demand:
            return None
        if path == unloaded.SHOW and not self.demand.there(handle):
            return unloaded.card(handle)
        if unloaded.goes(path, asked, keep):
            self.demand.free(handle)
            return unloaded.gone(path, handle.name)
        return None

    def _pipe(self, front: Front, request: Request, caller: Caller | None) -> Work | None:
        """A WebSocket, to the handle that its address names: ?model=HANDLE."""
        if request.path not in SOCKETS:
            raise RequestError("there is no WebSocket at this route", status=404, code="not_found")
        query = parse_qs(request.target.partition(b"?")[2].decode("latin-1"))
        handle = self.handle(caller, query.get("model", [None])[0])
        chain = self._chain(caller, handle)

        def send(handles: list[Handle], begun: bool, again: Again | None, done: Done) -> Work:
            return Pipe(front, request, self.replicas.ways(handles, None), done).start()

        done = self._counted(front, request.path, caller, handle, None)
        if not any(one.on_demand for one in chain):
            return send(chain, False, None, done)
        return Course(front, shapes.OPENAI, chain, self.demand, None, None, send, done).go()

    def handle(self, caller: Caller | None, name: str | None) -> Handle:
        """The one that is meant; UnknownName, or RequestError 403 where this key may not ask it."""
        try:
            handle = self.registry.find(name)
        except UnknownName as error:
            if caller and caller.allowed.handles:  # whom the others' names are none of their business
                error.hint = "GET /v1/models lists those of this key"
            raise
        if caller and not caller.may(handle.name):
            raise RequestError(f"this key may not ask {handle.name}", status=403, code="forbidden", param="model")
        return handle

    def _chain(self, caller: Caller | None, handle: Handle) -> list[Handle]:
        return [one for one in self.registry.chain(handle) if not caller or caller.may(one.name)]

    def _ways(self, handles: list[Handle], asked: Asked | None, where: str | None) -> Iterator[Way]:
        """Who may answer; of a job, only the slot that has it."""
        return (way for way in self.replicas.ways(handles, asked) if where in (None, way.where))

    def _counted(
        self, front: Front, path: str, caller: Caller | None, handle: Handle, asked: Asked | None
    ) -> Done:  # fmt: skip
        """Count a request that begins; what is to be called at its end."""
        began, name = time.monotonic(), caller.name if caller else None
        prompt, weight = _taken_for(path, asked)
        meter = self.meters.of(caller.name) if caller else None
        if caller and meter:
            try:
                meter.enter(caller.allowed, weight, began, datetime.date.today())
            except RequestError as error:
                self.counts.limited(caller.name, error.code)
                raise
            self.asking[front] = caller

        def done(relay: Relay | Pipe | None, status: int) -> None:
            self.asking.pop(front, None)
            now = time.monotonic()
            used = relay.usage(prompt) if relay else Usage()
            cost = used.cost(handle.price)
            if caller and meter:
                meter.leave(caller.allowed, weight, used.total, now, datetime.date.today())
            self.counts.answered(handle.name, status, now - began)
            self.counts.spent(handle.name, name, used, cost)
            if path == jobs.PATH and isinstance(relay, Relay) and relay.replica and status == 200:
                self.jobs.made(name, relay.tail, handle.name, relay.replica)
            if relay:
                self.counts.retried(handle.name, relay.retries)
                if relay.began_at:
                    self.counts.first(handle.name, relay.began_at - began)
            self.log(
                handle=handle.name, key=name, status=status, seconds=round(now - began, 4), prompt=used.prompt,
                completion=used.completion, estimated=used.estimated, cost=round(cost, 9),
                replica=relay.replica if relay else None, retries=relay.retries if relay else 0,
            )  # fmt: skip

        return done


def _taken_for(path: str, asked: Asked | None) -> tuple[int, int]:
    """Tokens that a prompt is taken for, and the whole of its request, before anybody counted them."""
    if asked is None or path in shapes.FREE:
        return 0, 0
    prompt = balance.weight(asked.text, 0)
    return prompt, prompt if path in shapes.SHORT else balance.weight(asked.text, asked.tokens)


def _revoked(caller: Caller) -> RequestError:
    return RequestError(f"the key {caller.name} was revoked", status=401, code="invalid_api_key")


def _presented(request: Request) -> Iterator[bytes]:
    for name, value in request.headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            yield value[7:].strip()
        elif name == b"x-api-key":
            yield value.strip()


def _method(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        message = f"this route takes {allowed}"
        raise RequestError(message, status=405, code="method_not_allowed", details={"allow": allowed})


async def ticking(gate: Gate, every: float = 0.5) -> Any:
    """Look at all connections' clocks, those to replicas too, for as long as it is not cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(every)
        now = loop.time()
        for front in list(gate.connections):
            try:
                front.tick(now)
            except Exception as error:  # one connection's end, not that of all others' clocks
                loop.call_exception_handler({"message": "a connection's clocks failed", "exception": error})
                front.transport.abort()
        for live in gate.replicas.live.values():
            live.pool.prune(now)
