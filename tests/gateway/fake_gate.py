"""A gate over a slot without an engine, in a thread: the same shape as the slot itself, where its edge is concerned."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llmctl.domain import READY, OnDemand
from llmctl.gateway import own
from llmctl.gateway.balance import Load
from llmctl.gateway.callers import Callers
from llmctl.gateway.counts import Counts
from llmctl.gateway.demand import Demand
from llmctl.gateway.front import Front
from llmctl.gateway.gate import Gate, ticking
from llmctl.gateway.loading import Start
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.gateway.replicas import Live, Replicas
from llmctl.gateway.spent import Meters
from llmctl.gateway.upstream import Pool
from llmctl.runner.auth import Auth
from tests.runner import fake_slot
from tests.runner.fake_slot import FakeService

TICK = 0.1
USUAL = OnDemand()


@contextlib.contextmanager
def serve(
    service: FakeService | None = None, auth: Auth | None = None, start: Start | None = None,
    times: OnDemand = USUAL, keep_alive: float | None = None,
) -> Iterator[Any]:  # fmt: skip
    """Like fake_slot.serve, with a gate in front; `limits` of the service are the gate's. With `start` the handle is
    on demand, and that loads it."""
    service = service or FakeService()
    limits, service.limits = service.limits, FakeService().limits
    with fake_slot.serve(service) as slot:
        ready: Future[Any] = Future()
        thread = threading.Thread(
            target=lambda: asyncio.run(_run(slot.port, limits, auth, start, times, keep_alive, ready))
        )
        thread.start()
        gate, port, loop, over = ready.result(10)
        state = SimpleNamespace(connections=gate.connections, tasks=())
        try:
            yield SimpleNamespace(
                service=service, port=port, drain=gate.drain, server=SimpleNamespace(server_state=state),
                bodies=gate.bodies, behind=slot, gate=gate, loop=loop, base_url=f"http://127.0.0.1:{port}",
            )  # fmt: skip
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join()


async def _run(
    behind: int, limits: Any, auth: Auth | None, start: Start | None, times: OnDemand, keep_alive: float | None,
    ready: Future[Any],
) -> None:  # fmt: skip
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def live(replica: Replica) -> Live:
        pool = Pool(lambda made: loop.create_connection(made, "127.0.0.1", replica.port))
        return Live(replica, pool, b"host: 127.0.0.1", Load(replica.where, warm=start is None))

    replicas = Replicas(live, loop.time)

    class Command:
        """Has the model there once `start` has returned."""

        async def load(self, replica: Replica, on_event: Any) -> None:
            assert start, "nothing is loaded on demand here"
            await start(replica, on_event)
            there(READY)

        async def unload(self, replica: Replica, unused: float) -> None:
            there("empty")

    def there(state: str) -> None:
        for one in replicas.live.values():
            one.state, one.load.warm = state, state == READY

    async def watch(live: Live) -> None:
        """What it is, `there` says."""

    demand = Demand(
        Path("/nonexistent"), replicas, Command(), times, watch,
        lambda: list(gate.registry.handles.values()), lambda said: None,
    )  # fmt: skip

    callers = Callers(Path("/nonexistent"))
    gate = Gate(
        limits, auth or Auth("127.0.0.1", None), auth is None, callers, replicas, {}, demand, Counts(),
        Meters(Path("/nonexistent")), lambda **said: None,
    )  # fmt: skip
    gate.own = own.routes(gate, lambda: {"verdict": "ok", "state": "ready", "ready": True, "status": "healthy"})
    replica = Replica("here", behind, "alpha", on_demand=start is not None)
    gate.registry = Registry({"alpha": Handle("alpha", (replica,), keep_alive=keep_alive)}, "alpha")
    replicas.follow(gate.registry)
    server = await loop.create_server(lambda: Front(gate), "127.0.0.1", 0)
    looking = asyncio.ensure_future(ticking(gate, TICK))
    ready.set_result((gate, server.sockets[0].getsockname()[1], loop, over))
    await over.wait()
    looking.cancel()
    server.close()
    for front in list(gate.connections):
        front.transport.abort()
    await demand.close()
    for one in replicas.live.values():
        one.pool.close()
    await asyncio.sleep(0.05)
