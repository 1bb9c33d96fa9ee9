"""One request on its way: to a replica, its answer back to the client, and to another replica while nothing came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from llmctl.errors import Busy, LlmctlError, RequestError
from llmctl.gateway import usage
from llmctl.gateway.front import Front, Work
from llmctl.gateway.request import Request
from llmctl.gateway.shapes import DIED, Shape
from llmctl.gateway.upstream import Headers, Pool, Upstream
from llmctl.gateway.usage import Usage

HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
"""RFC 9110, section 7.6.1: of one connection only."""
ASKS = b"x-llmctl-usage"
"""With it a slot tells at the end of any stream of events what it cost, in a comment."""
OURS = HOP | {b"host", b"content-length", b"authorization", b"x-api-key", b"origin", b"expect", b"cookie", ASKS}
"""What a replica is not told: the keys of the gateway's clients, and what was checked here."""
EVENT = {b"text/event-stream": b"data: ", b"application/x-ndjson": b"\n"}
"""Streams, by their type, and what each of their events has once."""
LINE = 2**18
"""Bytes of a line of a stream above which it is passed on in pieces."""
WHOLE = 2**16
"""Bytes of an answer up to which it is passed on in one piece: until then another replica may still be asked."""
BROKEN = 502
"""What an answer counts as that ended before its end, whatever its head said."""
SILENT = 30.0
"""Seconds after which an answer is given up whose replica does not answer to probes either."""
KEY_REFUSED = 401
"""A slot is not told its client's key: it is ours that it refuses."""
REFUSES_KEY = "it does not take the gateway's key: llmctl handles sync renews that"
BUSY = (429, 502, 503, 504)
"""Answers after which another replica may do better; the last one's is passed on."""


class Way(Protocol):
    """One replica that may answer. `body` is the request's, by the name that the replica knows."""

    @property
    def where(self) -> str: ...
    @property
    def pool(self) -> Pool: ...
    @property
    def head(self) -> bytes:
        """Its part of the request's head: Host, and the key that it wants."""

    def body(self, request: Request) -> bytes: ...
    def took(self, moved: Any) -> None:
        """It has the request now; `moved.hangs(why, now)` tells that it does not even answer to probes."""

    def began(self, status: int, seconds: float) -> None: ...
    def ended(self, *, whole: bool, why: str = "") -> None:
        """It has not any more; `why` a replica failed."""


class Relay:
    """What answers one request: a listener of its replica, and the work of its client's connection."""

    def __init__(
        self, front: Front, request: Request, ways: Iterator[Way], shape: Shape, done: Callable[[Relay, int], None],
        begun: bool = False, again: Callable[[bool], Work | None] = lambda begun: None,
    ) -> None:  # fmt: skip
        """`begun`: the head of a stream was sent already. `again(begun)` may know of an answer where no replica has."""
        self.front, self.request, self.shape = front, request, shape
        self._ways, self._done = ways, done
        self._way: Way | None = None
        self._next: Way | None = None
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._loop = front.loop
        self._sent = 0.0
        self._fresh = self._tried = False
        self._replica: str | None = None
        self._status = 0
        self._over = self._held = False
        self._streams = b""  # what an event of its answer has, nothing where that is no stream
        self._begun, self._again = begun, again
        self._refused: bytearray | None = None  # the words of an error that came after the head of a stream
        self._why = "no replica is up"
        self.retries = self.events = 0
        self.began_at = 0.0  # the head of its answer, by the loop's clock
        self._first = self._before = self._last = self._part = b""
        self._heard = 0.0

    def start(self) -> Relay:
        self._next = next(self._ways, None)
        self._try()
        return self

    # ── to a replica ────────────────────────────────────────────────────────────────────────────────────────────────

    def _try(self) -> None:
        way, self._next = self._next, None
        if way is None:
            self._give_up()
            return
        self.retries += self._tried
        self._tried = True
        self._way, self._replica = way, way.where
        way.took(self)
        self._next = next(self._ways, None)
        upstream = way.pool.take(self._loop.time())
        if upstream:
            self._fresh = False
            self._send(way, upstream)
        else:
            self._connecting = self._loop.create_task(self._connect(way))

    async def _connect(self, way: Way) -> None:
        try:
            upstream = await way.pool.fresh()
        except Busy as error:
            self._connecting = None
            self._drop(error.message, failure=False)
            return
        except LlmctlError as error:
            self._connecting = None
            self.failed(error.message)
            return
        except Exception as error:  # its client must hear of it, and another one may do better
            self._connecting = None
            self.failed(repr(error))
            return
        self._connecting = None
        if self._over:
            upstream.cut()
            return
        self._fresh = True
        self._send(way, upstream)

    def _send(self, way: Way, upstream: Upstream) -> None:
        self._upstream, self._sent = upstream, self._loop.time()
        self._heard = self._sent
        request, body = self.request, way.body(self.request)
        dropped = OURS | named(request) if request.header(b"connection") else OURS
        lines = [request.method.encode() + b" " + request.target + b" HTTP/1.1", way.head, ASKS + b": 1"]
        lines += [name + b": " + value for name, value in request.headers if name not in dropped]
        if body or request.method not in ("GET", "HEAD"):
            lines.append(b"content-length: %d" % len(body))
        lines += (b"", body)
        upstream.send(b"\r\n".join(lines), self, bodiless=request.method == "HEAD")

    def _give_up(self) -> None:
        if self._elsewhere():
            return
        self._over = True
        self._done(self, 503)
        self._tell(RequestError(self._why, status=503, code="unavailable", details={"retry_after": 2}))

    def _elsewhere(self) -> bool:
        """Whether something else answers it now."""
        work = self._again(self._begun)
        if work:
            self._over = True
            self.front.work = work
        return work is not None

    # ── its answer ──────────────────────────────────────────────────────────────────────────────────────────────────

    def began(self, status: int, headers: Headers, length: int | None) -> None:
        assert self._way
        if status == KEY_REFUSED:
            self._drop(REFUSES_KEY, failure=True)
            return
        self._way.began(status, self._loop.time() - self._sent)
        if status in BUSY and self._next:
            self._drop(f"it answers {status}", failure=False)
            return
        if status == 503 and self._elsewhere():
            self._drop_upstream()
            return
        self._status, self.began_at = status, self._loop.time()
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        self._streams = next((event for stream, event in EVENT.items() if kind.startswith(stream)), b"")
        if self._begun:
            if status != 200 or not self._streams:
                self._refused = bytearray()
            self._settled()
            return
        self._held = length is not None and length <= WHOLE
        if not self._held:
            self._settled()
        self.front.head(status, [pair for pair in headers if pair[0] not in HOP], length)

    def _settled(self) -> None:
        """Nobody else is asked from now on: a long answer does not hold what it was asked."""
        self._ways, self._next = iter(()), None
        self.front.forget_body()

    def came(self, data: bytes) -> None:
        if not self._status:
            return
        self._heard = self._loop.time()
        if self._refused is not None:
            self._refused += data[: LINE - len(self._refused)]
            return
        if self._streams:
            data = self._lines(data)
            self.events += data.count(self._streams)
        if data:
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        self._first = self._first or data
        self._before, self._last = self._last, data
        self.front.data(data)

    def _lines(self, data: bytes) -> bytes:
        """What may be sent of a stream: half a line would spoil the error that may have to follow."""
        data, self._part = self._part + data, b""
        if data.endswith(b"\n") or len(data) > LINE:
            return data
        end = data.rfind(b"\n") + 1
        self._part = data[end:]
        return data[:end]

    def flush(self) -> None:
        if self._status and not self._held:
            self.front.flush()

    def _take_back(self) -> None:
        """Nothing of the answer that began was sent: there may be another one."""
        if self._held:
            self.front.take_back()
            self._held, self._status, self.began_at = False, 0, 0.0
            self._first = self._before = self._last = self._part = b""
            self._streams, self.events = b"", 0

    def ended(self) -> None:
        self._over, self._upstream = True, None  # which others may have by now: a slow client must not pause it
        self._left(whole=True)
        if self._part:
            self._pass_on(self._part)
        self._done(self, self._status)
        if self._refused is not None:
            self._tell(refusal(self._status, bytes(self._refused)))
        else:
            self.front.end()

    def failed(self, why: str) -> None:
        """The replica is gone. Before the first byte another one is asked; later the client is told."""
        if self._over:
            return
        upstream, self._upstream = self._upstream, None
        self._take_back()
        if not self._status:
            if upstream and not self._fresh and not upstream.heard and self._way and self._sent:
                again, self._sent = self._way, 0.0  # a kept connection that had been closed: no failure of the replica
                self._connecting = self._loop.create_task(self._connect(again))
                return
            self._left(whole=False, why=why)
            self._why = f"the replica failed: {why}"
            self._try()
            return
        self._over = True
        self._left(whole=False, why=why)
        self._done(self, BROKEN)
        self._tell(RequestError("the model's server failed in the middle of its answer", status=BROKEN, code=DIED))

    def _tell(self, error: RequestError) -> None:
        """End with an error: as the answer, in the stream, or by a cut that shows that the answer is no whole."""
        self._take_back()
        if self._streams or self._begun:
            self.front.data(self.shape.broken(self._last, error))
            self.front.end()
        elif self._status:
            self.front.cut()
        else:
            self.front.error(error, self.shape.error)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream:
            upstream.cut()
        self._left(whole=True)

    def hangs(self, why: str, now: float) -> None:
        """The replica does not answer to probes either: ask another one where nothing came and there is one; what has
        been silent for long ends."""
        upstream = self._upstream
        if self._over or upstream is None:
            return
        if not self._status and self._next:
            self._drop(why, failure=True)
        elif now - self._heard > SILENT:
            self._fresh = True  # it is not a connection alone that ended
            upstream.cut()
            self.failed(why)

    def stop(self, error: RequestError) -> None:
        """It may not go on: tell the client why."""
        if self._over:
            return
        self._leave()
        self._done(self, error.status)
        self._tell(error)

    def _drop(self, why: str, *, failure: bool) -> None:
        """Take no answer of this replica: ask the next."""
        upstream, self._upstream = self._upstream, None
        if upstream:
            upstream.cut()
        self._left(whole=not failure, why=why if failure else "")
        self._why = f"the replica: {why}"
        self._try()

    def _left(self, *, whole: bool, why: str = "") -> None:
        if self._way:
            self._way.ended(whole=whole, why=why)
            self._way = None

    @property
    def replica(self) -> str | None:
        """HOST:PORT of who answered, or was asked last."""
        return self._replica

    def usage(self, prompt: int) -> Usage:
        """What it cost so far, nothing before an answer; `prompt` is what its prompt is taken for."""
        if not 200 <= self._status < 300:
            return Usage()
        return usage.of(self._first, self.tail, self.events, prompt)

    @property
    def tail(self) -> bytes:
        """The end of its answer."""
        return self._before[-usage.TAIL :] + self._last

    # ── its client ──────────────────────────────────────────────────────────────────────────────────────────────────

    def gone(self) -> None:
        if self._over:
            return
        self._leave()
        self._done(self, 499)

    def _leave(self) -> None:
        """Nobody wants the replica's answer any more."""
        self._over = True
        if self._connecting:
            self._connecting.cancel()
        if self._upstream:
            self._upstream.cut()
        self._left(whole=True)

    def shutdown(self) -> None:
        """Every answer has its end."""

    def pause(self) -> None:
        if self._upstream:
            self._upstream.transport.pause_reading()

    def resume(self) -> None:
        if self._upstream and not self._upstream.closed:
            self._upstream.transport.resume_reading()


def refusal(status: int, body: bytes) -> RequestError:
    """What a slot said in an error that comes too late for a status of its own."""
    try:
        said = json.loads(body)
        error = said.get("error", said)
        words = error if isinstance(error, str) else str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        words = f"the model's server answers {status}"
    return RequestError(words, status=status)


def named(request: Request) -> frozenset[bytes]:
    """The headers that a request's Connection header names: of its own connection only."""
    values = [value for name, value in request.headers if name == b"connection"]
    return frozenset(name.strip().lower() for name in b",".join(values).split(b","))
