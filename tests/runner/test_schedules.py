"""C2: swap, unload, restart, idle timer, requests, cancellations and crashes in 1,000 seeded orders, in virtual time.

The slot is the real one; its engines are stand-ins that take random (virtual) time for everything, so that every
order of events comes up. What must hold: nothing hangs, at most two engines live at once and one when all is quiet,
nothing is reserved that no engine holds, a spare is wanted while there is a model to come back to, and the slot serves
again afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import selectors
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from llmctl import domain
from llmctl.domain import Chunk, EngineSpec, GenerateRequest, Identity, SlotSpec, Started, TokenLogprob, Usage
from llmctl.errors import LlmctlError, RequestError
from llmctl.processes import ProcessId
from llmctl.runner.bring_up import Effects
from llmctl.runner.slot import Slot
from llmctl.runner.streams import RequestStream
from llmctl.slots.state import Disabled, SlotFolder

HUNG = 10_000.0


class VirtualSelector(selectors.DefaultSelector):
    """Never waits: the loop's clock jumps to the next timer."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.skipped += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is that of its timers."""

    def __init__(self) -> None:
        self.virtual = VirtualSelector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.skipped


class StandIn:
    """An engine for the slot, made of timers."""

    live: ClassVar[set[StandIn]] = set()

    def __init__(self, spec: SlotSpec, chance: random.Random) -> None:
        loop = asyncio.get_running_loop()
        self.spec, self.chance = spec, chance
        self.ready: asyncio.Future[Identity] = loop.create_future()
        self.gone: asyncio.Future[str] = loop.create_future()
        self.streams: dict[str, RequestStream] = {}
        self.identity: Identity | None = None
        self.reservation: str | None = None
        self.load_seconds = 1.0
        self.on_room: Any = lambda: None
        self.on_progress: Any = None
        self.child = SimpleNamespace(pid=1, identity=ProcessId(1, "", ""))
        self.live.add(self)
        self.jobs = [loop.create_task(self.come_up())]
        if chance.random() < 0.2:
            loop.call_later(chance.uniform(0, 30), self.kill)

    async def come_up(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, 5))
        if self.chance.random() < 0.2:
            self.ready.set_exception(LlmctlError("will not"))
            self.ready.exception()
        else:
            self.identity = Identity(self.spec.model, "x", "x", 100, 100, parallel=2)
            self.ready.set_result(self.identity)

    def has_room(self) -> bool:
        return not self.gone.done() and len(self.streams) < 2

    def begin(self, request: GenerateRequest) -> RequestStream:
        stream = RequestStream(request.id, self.spec.model, cancel=lambda id: None, limit=10**6)
        self.streams[request.id] = stream
        self.jobs.append(asyncio.get_running_loop().create_task(self.answer(stream)))
        return stream

    async def answer(self, stream: RequestStream) -> None:
        await asyncio.sleep(self.chance.uniform(0, 1))
        stream.push(Started(stream.id, 1))
        await asyncio.sleep(self.chance.uniform(0, 3))
        logprobs = tuple(TokenLogprob("x", i, -1.0) for i in range(8))
        stream.push(Chunk(stream.id, 0, "eight tokens", 8, domain.STOP, None, logprobs, Usage(1, 8)))
        self.streams.pop(stream.id, None)
        self.on_room()

    def cut(self, error: LlmctlError) -> int:
        open_streams, self.streams = list(self.streams.values()), {}
        for stream in open_streams:
            stream.fail(error)
        return len(open_streams)

    async def stop(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, 2))
        self.kill()

    def kill(self) -> None:
        if not self.gone.done():
            for job in self.jobs:
                job.cancel()
            self.live.discard(self)
            self.cut(RequestError("died", status=500))
            self.gone.set_result("was killed")

    def silent_for(self) -> float:
        return 0.0

    def resident(self) -> int:
        return 0

    def last_words(self) -> list[str]:
        return []


class Metrics:
    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


async def schedule(seed: int, home: Path) -> Counter[str]:
    """One seeded story; returns what came of its requests and changes."""
    chance = random.Random(seed)
    reserved: dict[str, int] = {}
    outcome: Counter[str] = Counter()
    StandIn.live = set()

    async def spawn(spec: SlotSpec) -> Any:
        return StandIn(spec, chance)

    def reserve(spec: SlotSpec, resident: int, order: str) -> tuple[str, str]:
        key = str(chance.random())
        reserved[key] = 1
        return key, chance.choice(["new-first", "old-first"])

    def release(key: str | None) -> None:
        reserved.pop(key or "", None)

    spares: list[SlotSpec | None] = [None]
    settle, note = lambda key, size, held: release(held), lambda message: None
    effects = Effects(spawn, reserve, release, settle, note, spares.append)  # type: ignore[arg-type]
    slot = Slot(SlotFolder(home, 8101), effects, Metrics(), keep=False)
    slot.start()

    def spec(name: str) -> SlotSpec:
        idle = chance.choice([None, 3.0])
        return SlotSpec(EngineSpec("x", name, "/", "x"), idle_unload=idle, spare_bytes=int(name != "b"))

    async def request(n: int) -> None:
        try:
            stream = await slot.traffic.generate(GenerateRequest(f"r{n}", prompt="x"))
            async with stream:
                async for _ in stream:
                    if chance.random() < 0.1:
                        return
            outcome["served"] += 1
        except RequestError as error:
            outcome[str(error.status)] += 1

    async def change(verb: str) -> None:
        quiet = {"owner": "t", "on_event": lambda event: None}
        wait = {"lock_wait": chance.choice([0.0, 5.0])}
        try:
            if verb in ("load", "swap"):
                await slot.change(spec(chance.choice("ab")), verb=verb, order="auto", **quiet, **wait)
            elif verb == "disable":
                await slot.disable(Disabled("test"), **quiet)
            elif verb == "enable":
                await slot.enable(**quiet)
            else:
                await getattr(slot, verb)(**quiet, **wait)
            outcome[verb] += 1
        except LlmctlError as error:
            outcome[f"{verb}:{error.code}"] += 1

    jobs: list[asyncio.Task[None]] = []
    verbs = ["load", "swap", "swap", "swap", "unload", "restart", "disable", "enable"]
    for n in range(chance.randint(5, 25)):
        work: Coroutine[Any, Any, None] = request(n) if chance.random() < 0.6 else change(chance.choice(verbs))
        job = asyncio.get_running_loop().create_task(work)
        jobs.append(job)
        if chance.random() < 0.1:
            asyncio.get_running_loop().call_later(chance.uniform(0, 4), lambda j=job, w=work: _leave(j, w))
        await asyncio.sleep(chance.expovariate(1.0))
    done, pending = await asyncio.wait(jobs, timeout=HUNG)
    assert not pending, f"hangs: {pending}"
    for job in done:
        if not job.cancelled():
            job.result()
    await asyncio.sleep(60)
    assert len(StandIn.live) <= 1 and (slot.operations.current is None or slot.operations.current.own)
    assert len(reserved) <= len(StandIn.live) + (slot.operations.current is not None), (reserved, slot.state)
    if slot.operations.current is None:
        held = slot.state in (domain.CRASH_LOOP, domain.DISABLED) or slot.desired.spec is None
        spare = None if held or not slot.desired.spec.spare_bytes else slot.desired.spec  # type: ignore[union-attr]
        assert spares[-1] == spare, (slot.state, slot.desired)
        outcome[f"at rest: {slot.state}"] += 1
    with contextlib.suppress(LlmctlError):
        await slot.enable(owner="t", on_event=lambda event: None)
    before = outcome["served"]
    for _ in range(200):  # stand-ins fail now and then; a slot that is not stuck serves before long
        with contextlib.suppress(LlmctlError):
            await slot.change(spec("z"), verb="swap", order="auto", owner="t", lock_wait=50.0, on_event=lambda e: None)
            await request(999)
        if outcome["served"] > before:
            break
    assert outcome["served"] > before, (slot.state, outcome)
    await slot.close()
    await asyncio.sleep(10)
    assert not StandIn.live and not reserved
    return outcome


def _leave(job: asyncio.Task[None], work: Coroutine[Any, Any, None]) -> None:
    """A client goes away; operators' changes are never cancelled by the control socket."""
    if work.__name__ == "request":
        job.cancel()


def test_c02_a_thousand_schedules_end_and_leave_nothing() -> None:
    total: Counter[str] = Counter()
    home = Path(tempfile.gettempdir())
    for seed in range(1000):
        loop = VirtualLoop()
        try:
            total += loop.run_until_complete(schedule(seed, home))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        finally:
            loop.close()
    assert total["served"] > 1000 and total["swap"] > 500, total
