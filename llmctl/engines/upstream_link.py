"""The connection to another server: one HTTP client on a loop of its own thread, no proxies, no redirects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from llmctl.engines import upstream_errors
from llmctl.engines.upstream_answer import whole

if TYPE_CHECKING:
    import httpx

CONNECT = 5.0
LEAVE = 2.0
KEEP = 1.0  # servers close an idle connection after some seconds: never be the second to know
WHOLE = 64 * 2**20  # bytes of an answer that is read in one piece

T = TypeVar("T")


class Link:
    """Requests to one server. Coroutines run on `loop`; `run` and `start` are for other threads."""

    def __init__(self, url: str, key: str | None, stall: float) -> None:
        import httpx

        unix = url.removeprefix("unix:") if url.startswith("unix:") else None
        self.stall = stall
        self.loop = asyncio.new_event_loop()
        self.client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=unix, limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEP), trust_env=False
            ),
            base_url="http://localhost" if unix else url.removesuffix("/").removesuffix("/v1"),
            headers={"accept-encoding": "identity", **({"authorization": f"Bearer {key}"} if key else {})},
            timeout=httpx.Timeout(stall, connect=CONNECT, pool=None),
            trust_env=False,
        )
        self._thread = threading.Thread(target=self.loop.run_forever, name="upstream", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run it on the loop and wait for its result."""
        return self.start(work).result(timeout)

    async def status(self, path: str, timeout: float) -> int | None:
        """The status of a GET; 0 when nothing listens there, None when there was no answer in time."""
        import httpx

        try:
            async with self.client.stream("GET", path, timeout=timeout) as response:
                return response.status_code
        except httpx.ConnectError:
            return 0
        except httpx.HTTPError:
            return None

    async def json(self, method: str, path: str, body: Any = None, *, field: str = "input") -> Mapping[str, Any]:
        """The object that it answers; RequestError for everything else."""
        async with self.answer(method, path, body, field) as response:
            return whole(await self.read(response))

    async def call(self, method: str, path: str) -> None:
        """Only its status matters."""
        async with self.answer(method, path, None, "input") as response:
            await self.read(response)

    @asynccontextmanager
    async def answer(self, method: str, path: str, body: Any, field: str) -> AsyncIterator[httpx.Response]:
        """An answer with status 200 whose body is not read yet; RequestError for every other end."""
        import httpx

        try:
            request = self.client.build_request(method, path, json=body)
            response = await asyncio.wait_for(self.client.send(request, stream=True), self.stall)
            try:
                if response.status_code != 200:
                    words = await self.read(response)
                    raise upstream_errors.refused(response.status_code, response.headers, words, field)
                yield response
            finally:
                await response.aclose()
        except (httpx.TimeoutException, asyncio.TimeoutError, TimeoutError) as error:
            if isinstance(error, httpx.ConnectTimeout):
                raise upstream_errors.gone("takes no connections") from None
            raise upstream_errors.stalled(self.stall) from None
        except httpx.ConnectError:
            raise upstream_errors.gone("does not listen any more") from None
        except httpx.TransportError:
            raise upstream_errors.cut() from None

    async def read(self, response: httpx.Response) -> bytes:
        """The whole body, bounded."""
        found = b""
        async for piece in response.aiter_bytes():
            found += piece
            if len(found) > WHOLE:
                raise upstream_errors.garbage(f"an answer of more than {WHOLE >> 20} MiB")
        return found

    def close(self) -> None:
        """Close all connections and end the thread."""
        with suppress(OSError, TimeoutError, asyncio.TimeoutError, FutureTimeout):
            self.run(self._end(), LEAVE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LEAVE)
        self.loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.aclose()
