"""Asks replicas how they are: hedged, so that one lost packet is no verdict, and bounded, whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmctl.domain import READY
from llmctl.errors import LlmctlError
from llmctl.gateway.replicas import Live
from llmctl.gateway.standing import FAILURES
from llmctl.gateway.upstream import Headers, Upstream

HEDGE = 1.0
"""Seconds after which a second probe goes out beside the first."""
DEADLINE = 3.0
EVERY = 5.0
"""Seconds between two looks at a replica that is well."""
SOON = 2.0
"""The same where requests have waited as long for a first byte."""
LARGEST = 64 * 1024


@dataclass(frozen=True)
class Found:
    """What a replica said: `state` of its slot, None where it said nothing in time, and then `why`; `unused` seconds
    since its last request."""

    state: str | None = None
    why: str = ""
    unused: float = 0.0


class Got:
    """The listener of one small answer."""

    def __init__(self) -> None:
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status, self._body = 0, b""

    def began(self, status: int, headers: Headers, length: int | None) -> None:
        self._status = status

    def came(self, data: bytes) -> None:
        self._body += data[: LARGEST - len(self._body)]

    def flush(self) -> None: ...

    def ended(self) -> None:
        if not self.done.done():
            self.done.set_result((self._status, self._body))

    def failed(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(LlmctlError(why))


async def probe(live: Live) -> Found:
    """The slot's own word, from whichever of two probes is answered first."""
    first = asyncio.ensure_future(_health(live))
    asked = {first}
    try:
        done, _ = await asyncio.wait(asked, timeout=HEDGE)
        if not done or first.exception():
            asked.add(asyncio.ensure_future(_health(live)))
        end = asyncio.get_running_loop().time() + DEADLINE
        why = f"no answer within {HEDGE + DEADLINE:g} s"
        while asked and (left := end - asyncio.get_running_loop().time()) > 0:
            done, asked = await asyncio.wait(asked, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                error = one.exception()
                if error is None:
                    said = one.result()
                    unused = said.get("unused")
                    return Found(str(said["state"]), unused=unused if isinstance(unused, int | float) else 0.0)
                why = error.message if isinstance(error, LlmctlError) else repr(error)
        return Found(why=why)
    finally:
        for one in asked:
            one.cancel()
            with contextlib.suppress(BaseException):
                await one


async def _health(live: Live) -> Mapping[str, Any]:
    upstream: Upstream | None = live.pool.take(asyncio.get_running_loop().time()) or await live.pool.fresh(probes=True)
    assert upstream
    got = Got()
    try:
        upstream.send(b"GET /health HTTP/1.1\r\n" + live.head + b"\r\n\r\n", got)
        status, body = await got.done
        said = json.loads(body)
        if not isinstance(said, dict) or "state" not in said:
            raise LlmctlError(f"its health is none ({status})")
        return said
    except ValueError:
        raise LlmctlError("its health is no JSON") from None
    finally:
        if not got.done.done() or got.done.cancelled():
            upstream.cut()


async def watch(live: Live) -> Found:
    """Probe a replica, and note what that says of its standing."""
    now = asyncio.get_running_loop().time()
    found = await probe(live)
    if found.state is None:
        live.standing = live.standing.failed(now, found.why, FAILURES)  # two went out, and neither was answered
        live.hangs(found.why, asyncio.get_running_loop().time())
    elif live.standing.resting:
        live.standing = live.standing.answered()
    live.state = found.state or ""
    live.load.warm = found.state == READY
    live.rested = max(live.rested, now - found.unused)
    return found
