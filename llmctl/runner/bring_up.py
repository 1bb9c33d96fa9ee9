"""Start an engine and prove it: spawned, loaded, identified, probed twice; or gone, with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from llmctl.domain import SlotSpec
from llmctl.errors import LlmctlError, LoadFailed
from llmctl.runner.engine_process import EngineProcess
from llmctl.runner.prober import probe

PROBE_TIMEOUT = 120.0

OnEvent = Callable[[dict[str, Any]], None]
Spawn = Callable[[SlotSpec], Awaitable[EngineProcess]]
Reserve = Callable[[SlotSpec, int, str], tuple[str, str]]
"""reserve(spec, resident bytes of this slot's engine, order) → (reservation, order); DoesNotFit."""


@dataclass(frozen=True)
class Effects:
    """What a slot does to the world outside its own memory; replaced in tests of its schedule.

    `spare(spec)` keeps a process ready for models like this one (None: for none), `ahead(spec)` reads a model's files
    within a block, `happened(kind, …)` notes an event (llmctl.events).
    """

    spawn: Spawn
    reserve: Reserve
    release: Callable[[str | None], None]
    settle: Callable[[str, int, str | None], None]
    note: Callable[[str], None]
    spare: Callable[[SlotSpec | None], None] = lambda spec: None
    ahead: Callable[[SlotSpec], AbstractContextManager[None]] = lambda spec: nullcontext()
    happened: Callable[..., None] = lambda kind, **said: None


async def bring_up(
    spec: SlotSpec, reservation: str | None, effects: Effects, *, ended: Callable[[EngineProcess], None],
    on_event: OnEvent,
) -> EngineProcess:  # fmt: skip
    """A proven engine that holds `reservation`; `ended(engine)` is called when its process is gone, whenever that is.

    On any failure its process is gone and its reservation given back before LoadFailed (or what else it was) is raised,
    with the engine's last lines in `details["log"]`.
    """
    began = asyncio.get_running_loop().time()

    def progress(stage: str, done: int, total: int) -> None:
        elapsed = asyncio.get_running_loop().time() - began
        eta = elapsed * (total - done) / done if done and total else None
        on_event({
            "event": "stage", "stage": stage, "done": done, "total": total, "eta": eta, "elapsed": round(elapsed, 2),
        })  # fmt: skip

    progress("start", 0, 0)
    try:
        engine = await effects.spawn(spec)
    except BaseException:
        effects.release(reservation)
        raise
    engine.reservation = reservation
    engine.on_progress = progress
    engine.gone.add_done_callback(lambda _: ended(engine))
    try:
        await _ready(engine)
        progress("probe", 0, 0)
        await probe(engine, min(PROBE_TIMEOUT, spec.load_timeout))
        if engine.gone.done():
            raise LoadFailed(f"{spec.model}: the engine {engine.gone.result()} after its probe")
        return engine
    except BaseException as error:
        engine.kill()
        await asyncio.shield(engine.gone)
        if isinstance(error, LlmctlError):
            error.details.setdefault("log", engine.last_words())
        raise


async def _ready(engine: EngineProcess) -> None:
    timeout = engine.spec.load_timeout
    try:
        await asyncio.wait_for(asyncio.shield(engine.ready), timeout)
    except (asyncio.TimeoutError, TimeoutError):
        raise LoadFailed(f"{engine.spec.model} was not ready within {timeout:.0f} s") from None
