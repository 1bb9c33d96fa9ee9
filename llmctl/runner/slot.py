"""One slot: which engine serves, and the operations that change it without losing a request.

The event loop thread owns everything here. Operators' changes and the slot's own (start, wake, restart after a crash,
idle unload) take the same lock one after another; an operator's change ends one of the slot's own.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from llmctl import domain
from llmctl.domain import SlotSpec
from llmctl.errors import Busy, LlmctlError, LoadFailed, Refused, RequestError
from llmctl.runner.bring_up import Effects, OnEvent, bring_up
from llmctl.runner.engine_process import EngineProcess
from llmctl.runner.happenings import Happenings
from llmctl.runner.operations import FALL_ASLEEP, Operations
from llmctl.runner.resting import Resting, rests
from llmctl.runner.traffic import NO_MODEL, REMEMBER_NAMES, Record, Traffic, names, now
from llmctl.slots.admission import OLD_FIRST
from llmctl.slots.state import Desired, Disabled, SlotFolder, last_good
from llmctl.slots.supervisor import GiveUp, after_crash, idle_due, is_wedged, recent


class Slot:
    """The port's model over time. `traffic` is its Service; the public coroutines are its control socket's verbs."""

    def __init__(self, folder: SlotFolder, effects: Effects, metrics: Any, *, keep: bool = True) -> None:
        self.port, self.effects, self.metrics = folder.port, effects, metrics
        self.record = Record(folder, keep, effects.note)
        self.limits = self.record.desired.launch.limits
        self.traffic = Traffic(self.record, metrics, self._wake)
        self.operations = Operations(folder.port, effects.note, self._after_operation)
        self._happened = Happenings(self.operations, effects.happened)
        self._crashes: list[float] = []
        self._unsettled: str | None = None  # why the engine is gone, noted during an operation
        self._housekeeper: asyncio.Task[None] | None = None
        self.resting = Resting(effects.release, effects.note)

    # ── state ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> str:
        return self.record.actual.state

    @property
    def desired(self) -> Desired:
        return self.record.desired

    @property
    def current(self) -> EngineProcess | None:
        """The engine that serves."""
        return self.traffic.engine

    def _set(self, state: str, why: str | None = None, **changes: Any) -> None:
        """The actual state is `state`, from now on if it was another."""
        actual = self.record.actual
        since = time.time() if state != actual.state else actual.since
        engine = asdict(self.current.child.identity) if self.current else None
        self.record.note(replace(actual, state=state, since=since, engine=engine, why=why, **changes))

    def _want(self, **changes: Any) -> None:
        """Change the desired state."""
        self.record.want(replace(self.desired, **changes))

    def _serving(self, engine: EngineProcess) -> None:
        """Traffic goes to `engine` from now on: the moment of a swap."""
        spec, wall = engine.spec, time.time()
        served = {name: until for name, until in self.record.actual.served.items() if until > wall}
        was, before = self.desired.spec, self.record.actual.before
        if was:
            served |= dict.fromkeys((n.casefold() for n in names(was)), wall + REMEMBER_NAMES)
            if was.model != spec.model:
                before = None if before and before.model == spec.model else was
        try:
            self._want(spec=spec)
        except OSError as error:
            engine.kill()
            raise LoadFailed(f"the new state cannot be written: {error}", hint="make room on the disk") from error
        self.traffic.engine = engine
        self._set(domain.READY, last_known_good=spec, before=before, served=served, last_load=engine.load_seconds)
        self.metrics.loaded(engine.load_seconds)
        self.traffic.serve_with(engine)

    # ── operators' verbs ────────────────────────────────────────────────────────────────────────────────────────────

    async def change(
        self, spec: SlotSpec, *, verb: str, order: str, owner: str, stuck: bool = False, lock_wait: float = 0.0,
        on_event: OnEvent,
    ) -> dict[str, Any]:  # fmt: skip
        """Load or swap: prove the new model, give it the traffic, let the old one finish. On failure the old serves,
        unless it is `stuck`: then it ends first, with its requests."""
        async with self.operations.changing(verb, owner, lock_wait):
            before = self.desired.spec
            if self.desired.disabled:
                raise self._is_disabled()
            if verb == "load" and before and before.model != spec.model:
                raise Refused(
                    f"port {self.port} holds {before.model}",
                    hint=f"llmctl swap {self.port} {spec.model}",
                    port=self.port,
                )
            if verb == "load" and before == spec and self.current:
                return self._result(before, "none", 0.0, 0)
            if stuck:
                await self._end_stuck(on_event)
            result = await self._replace(spec, order, on_event)
            self.record.note(replace(self.record.actual, replaced=before))
            return result

    async def restart(
        self, *, owner: str, stuck: bool = False, lock_wait: float = 0.0, on_event: OnEvent
    ) -> dict[str, Any]:  # fmt: skip
        """Start the desired model anew, beside the running one where memory allows; one that is `stuck` ends first,
        with its requests."""
        async with self.operations.changing("restart", owner, lock_wait):
            if self.desired.disabled:
                raise self._is_disabled()
            if stuck:
                await self._end_stuck(on_event)
            return await self._replace(self._desired_spec(), "auto", on_event)

    async def unload(
        self, *, owner: str, unused: float = 0.0, lock_wait: float = 0.0, on_event: OnEvent
    ) -> dict[str, Any]:  # fmt: skip
        """End the engine after its requests; the port stays open and answers that nothing is loaded. With `unused` only
        where it had no request for so many seconds, else Busy; after a crash loop those get no answer anyhow."""
        async with self.operations.changing("unload", owner, lock_wait):
            before, began = self.desired.spec, now()
            if self.state != domain.CRASH_LOOP and (rests := self.traffic.unused()) < unused:
                raise Busy(f"port {self.port} was used {rests:.1f} s ago", port=self.port)
            cut = await self._retire(self._take_off(domain.STOPPING), on_event)
            self._want(spec=None)
            self._set(domain.EMPTY)
            self.traffic.dismiss(self.traffic.unavailable(NO_MODEL[domain.EMPTY]))
            self._happened.done(before.model if before else None, cut=cut)
            return self._result(before, "none", now() - began, cut)

    async def disable(self, disabled: Disabled, *, owner: str, on_event: OnEvent) -> dict[str, Any]:
        """Hold the slot down, over restarts too, until `enable` or the given time."""
        async with self.operations.changing("disable", owner):
            began = now()
            self._want(disabled=disabled)
            cut = await self._retire(self._take_off(domain.STOPPING), on_event)
            self._set(domain.DISABLED, disabled.why)
            self.traffic.dismiss(self.traffic.unavailable(f"{NO_MODEL[domain.DISABLED]}: {disabled.why}"))
            self._happened.done(self._model(), disabled.why, until=disabled.until)
            return self._result(self.desired.spec, "none", now() - began, cut)

    async def enable(self, *, owner: str, on_event: OnEvent) -> dict[str, Any]:
        """Lift `disable` and bring the desired model back."""
        async with self.operations.changing("enable", owner):
            self._want(disabled=None)
            if self.desired.spec is None:
                self._set(domain.EMPTY)
                self._happened.done(None)
                return self._result(None, "none", 0.0, 0)
            if self.current:
                self._happened.done(self._model())
                return self._result(self.desired.spec, "none", 0.0, 0)
            return await self._replace(self.desired.spec, "auto", on_event)

    def status(self) -> dict[str, Any]:
        """The slot's row for `status`."""
        spec, engine, operation = self.desired.spec, self.current, self.operations.current
        return {
            "port": self.port, "model": spec.model if spec else None,
            "engine": spec.engine.engine if spec else None, "state": self.state, "why": self.record.actual.why,
            "pid": engine.child.pid if engine else None, "handles": list(self.traffic.served_names())[1:],
            "since": self.record.actual.since, "memory_bytes": engine.resident() if engine else 0,
            "tokens_per_second": engine.tokens_per_second() if engine else 0.0, "active": self.traffic.active(),
            "silent": round(engine.silent_for(), 1) if engine and engine.streams else 0.0,
            "queued": len(self.traffic.line), "operation": operation.verb if operation else None,
            "spread": [member["host"] for member in spec.engine.spread] if spec else [],
            "load_path": engine.identity.load_path if engine and engine.identity else None,
            "residency": engine.identity.residency if engine and engine.identity else {},
            "progress": self.traffic.progress,
            "crashes": recent(self._crashes, now()), "queue_limit": self.limits.queue,
            "last_good": last_good(self.record.actual),
            "unused": int(10 * self.traffic.unused()) / 10,  # never more than `unload` finds
        }  # fmt: skip

    # ── changing engines ────────────────────────────────────────────────────────────────────────────────────────────

    async def _replace(self, spec: SlotSpec, order: str, on_event: OnEvent) -> dict[str, Any]:
        before, began, old = self.desired.spec, now(), self.current
        reservation, order = self.effects.reserve(spec, old.resident() if old else 0, order)
        if old is None:
            order = "none"
        self._crashes.clear()
        self.traffic.waits_since = now()
        try:
            if order == OLD_FIRST:
                cut = await self._old_first(spec, reservation, before, on_event)
            else:
                cut = await self._new_first(spec, reservation, on_event)
        except LlmctlError as error:
            self.metrics.swap("failed")
            self._happened.failed(spec.model, error, order=order)
            raise
        self.metrics.swap("ok")
        result = self._result(before, order, now() - began, cut)
        self._happened.done(spec.model, **{key: result[key] for key in ("previous", "order", "seconds", "cut")})
        return result

    async def _new_first(self, spec: SlotSpec, reservation: str, on_event: OnEvent) -> int:
        was = self.state
        self._set(domain.SWAPPING if self.current else domain.STARTING)
        old = self.current
        try:
            self._serving(await self._bring_up(spec, reservation, on_event))
        except LlmctlError as error:
            if self.current:
                self._set(domain.READY)
                error.details["rolled_back_to"] = self.current.spec.model
            elif self.desired.spec is None or was in (domain.SLEEPING, domain.CRASH_LOOP):
                self._set(was if self.desired.spec else domain.EMPTY, error.message)
                self.traffic.dismiss(self.traffic.unavailable(f"the model did not start: {error.message}"))
            else:
                self._crashed(error.message)
            raise
        on_event({"event": "note", "message": f"{spec.model} serves port {self.port}"})
        return await self._retire(old, on_event)

    async def _old_first(self, spec: SlotSpec, reservation: str, before: SlotSpec | None, on_event: OnEvent) -> int:
        expected = self.record.actual.last_load
        on_event({"event": "note", "message": f"the old model goes first: requests wait, about {expected:.0f} s"})
        old, held = self._take_off(domain.SWAPPING), None
        if old:  # its reservation stays for the rollback
            held, old.reservation = old.reservation, None
        with self.effects.ahead(spec):
            cut = await self._retire(old, on_event)
        try:
            self._serving(await self._bring_up(spec, reservation, on_event))
        except LlmctlError as error:
            await self._roll_back(before or spec, held, error, on_event)
            raise
        self.effects.settle(reservation, spec.needed_bytes, held)
        return cut

    async def _roll_back(self, spec: SlotSpec, held: str | None, error: LlmctlError, on_event: OnEvent) -> None:
        """Old-first failed: the last-known-good model comes back, or the crash policy takes over."""
        good = self.record.actual.last_known_good or spec
        on_event({"event": "note", "message": f"{error.message}; {good.model} is started again"})
        try:
            self._serving(await self._bring_up(good, held, on_event))
            error.details["rolled_back_to"] = good.model
        except LlmctlError as second:
            error.details["rollback_failed"] = second.message
            self._crashed(f"neither the new model nor {good.model} starts: {second.message}")

    async def _bring_up(self, spec: SlotSpec, reservation: str | None, on_event: OnEvent) -> EngineProcess:
        def seen(event: dict[str, Any]) -> None:
            self.traffic.progress = {k: v for k, v in event.items() if k != "event"}
            on_event(event)

        try:
            return await bring_up(spec, reservation, self.effects, ended=self._ended, on_event=seen)
        except Exception as error:
            typed = error if isinstance(error, LlmctlError) else LoadFailed(f"internal error: {error!r}")
            typed.port = self.port
            raise typed from error
        finally:
            self.traffic.progress = {}

    async def _retire(self, engine: EngineProcess | None, on_event: OnEvent) -> int:
        """Let `engine` finish its requests (up to the finish cap), then end it; the number of streams cut.

        One that rests is ended too.
        """
        await self.resting.end()
        if engine is None:
            return 0
        await self._finished(engine)
        error = RequestError("the model is being replaced and this answer took too long", status=503, code="cut")
        cut = engine.cut(error)
        await engine.stop()
        self.metrics.cut(cut)
        if cut:
            on_event({"event": "note", "message": f"{cut} answers were cut at the finish cap"})
        return cut

    async def _finished(self, engine: EngineProcess) -> None:
        """Wait for its last stream, no longer than the finish cap, and not for a wedged engine."""
        deadline = now() + self.limits.request_time
        while engine.streams and now() < deadline and not engine.gone.done():
            if is_wedged(len(engine.streams), engine.silent_for(), self.limits.stall):
                break
            await asyncio.sleep(0.02)

    async def _end_stuck(self, on_event: OnEvent) -> None:
        """End an engine that answers nobody, and tell those who wait for it."""
        engine = self._take_off(domain.STARTING)
        if engine:
            engine.cut(RequestError("the engine gave no answer", status=503, code="engine_died"))
        await self._retire(engine, on_event)

    def _take_off(self, state: str) -> EngineProcess | None:
        """Take the engine off the traffic: who comes now waits or is sent away, as `state` says."""
        engine, self.traffic.engine = self.current, None
        self._set(state)
        return engine

    # ── its own work: start, crash, wedge, idle, wake ───────────────────────────────────────────────────────────────

    def start(self) -> None:
        """After the server's own start: bring up what is desired."""
        self._housekeeper = asyncio.get_running_loop().create_task(self._housekeeping())
        if self.current:
            self._keep_spare()
            return
        if self.desired.disabled and not self.desired.disabled.over():
            self._set(domain.DISABLED, self.desired.disabled.why)
        elif self.desired.spec:
            self._set(domain.STARTING)
            self.operations.start_own("start", self._bring_back)
        else:
            self._set(domain.EMPTY)

    def adopt(self, engine: EngineProcess) -> None:
        """Go on with the engine that the program image before this one had."""
        engine.gone.add_done_callback(lambda _: self._ended(engine))
        self.traffic.serve_with(engine)
        self._happened.adopted(engine.spec.model)

    def _ended(self, engine: EngineProcess) -> None:
        """An engine process is gone, whoever wanted it."""
        self.effects.release(engine.reservation)
        engine.reservation = None
        if engine is self.current:
            self.traffic.engine = None
            why = f"the engine {engine.gone.result()}"
            self.effects.note(why)
            self._happened.ended("crash", engine.spec.model, why)
            self.metrics.restarted()
            self._crashed(why)

    def _crashed(self, why: str) -> None:
        """Count a crash and do what the policy says; within an operation, when that is over and left no engine."""
        if self.operations.current:
            self._unsettled = why
            return
        self.traffic.waits_since = now()
        self._crashes.append(now())
        decision = after_crash(self._crashes, now())
        if isinstance(decision, GiveUp):
            self._set(domain.CRASH_LOOP, f"{why}; {decision.crashes} crashes, given up")
            self._happened.ended("crash-loop", self._model(), why)
            self.traffic.dismiss(self.traffic.unavailable(f"{NO_MODEL[domain.CRASH_LOOP]}: {why}"))
            self._keep_spare()
        else:
            self._set(domain.BACKOFF, why)
            self.operations.start_own("restart after a crash", partial(self._bring_back, decision.delay))

    async def _bring_back(self, delay: float = 0.0) -> None:
        """Start the desired model again after `delay`; a failure counts as a crash."""
        await asyncio.sleep(delay)
        spec = self.desired.spec
        if spec is None or self.current:
            return
        self.traffic.waits_since = now()
        self._set(domain.STARTING, self.record.actual.why)
        try:
            reservation, _ = self.effects.reserve(spec, 0, "auto")
            engine = await self.resting.wake(reservation)
            self._serving(engine or await self._bring_up(spec, reservation, lambda event: None))
            self._happened.done(spec.model, seconds=round(now() - self.traffic.waits_since, 3))
        except LlmctlError as error:
            self.effects.note(f"{spec.model} did not come back: {error.message}")
            self._happened.failed(spec.model, error)
            self._crashed(error.message)

    def _wake(self) -> None:
        self.operations.start_own("wake", self._bring_back)

    def _after_operation(self) -> None:
        """What an operation left to do: restart an engine that ended meanwhile, wake for those who came meanwhile."""
        why, self._unsettled = self._unsettled, None
        if not self.current and self.desired.spec and not self.desired.disabled:
            if why:
                self._crashed(why)
            elif self.state == domain.SLEEPING and len(self.traffic.line):
                self._wake()
        if not self.operations.current:
            self._keep_spare()

    def _keep_spare(self) -> None:
        """While there is a model to come back to, and its spec wants one."""
        spec = self.desired.spec
        keeps = spec and spec.spare_bytes and not self.desired.disabled and self.state != domain.CRASH_LOOP
        self.effects.spare(spec if keeps else None)

    async def _housekeeping(self) -> None:
        """Once a second: a wedged engine is killed, an idle one put to sleep, a disable that is over lifted."""
        while True:
            await asyncio.sleep(min(1.0, (self._idle_after() or 4.0) / 4))
            engine = self.current
            if engine and self.traffic.wedged():
                engine.kill(f"no progress for {engine.silent_for():.0f} s with requests open, so it was killed")
            if self.operations.current:
                continue
            idle_for = now() - self.traffic.last_activity
            if engine and self.state == domain.READY:
                if engine.streams:
                    self.traffic.last_activity = now()
                elif idle_due(self._idle_after(), len(engine.streams), len(self.traffic.line), idle_for):
                    self.operations.start_own(FALL_ASLEEP, self._fall_asleep)
            if self.desired.disabled and self.desired.disabled.over():
                self._want(disabled=None)
                if self.desired.spec:
                    self.operations.start_own("enable", self._bring_back)

    def _idle_after(self) -> float | None:
        return self.desired.spec.idle_unload if self.desired.spec else None

    async def _fall_asleep(self) -> None:
        engine = self._take_off(domain.SLEEPING)
        self._happened.done(self._model())
        if engine and rests(engine):
            await self._finished(engine)
            if await self.resting.keep(engine):
                return
        await self._retire(engine, lambda event: None)

    def _is_disabled(self) -> Refused:
        disabled = self.desired.disabled
        why = disabled.why if disabled else ""
        return Refused(
            f"port {self.port} is disabled: {why}",
            hint=f"llmctl enable {self.port}",
            port=self.port,
        )

    def _model(self) -> str | None:
        return self.desired.spec.model if self.desired.spec else None

    def _desired_spec(self) -> SlotSpec:
        if self.desired.spec is None:
            port = self.port
            raise Refused(f"port {port} has no model", hint=f"llmctl load {port} MODEL", port=port)
        return self.desired.spec

    def _result(self, before: SlotSpec | None, order: str, seconds: float, cut: int) -> dict[str, Any]:
        spec = self.desired.spec
        return {
            "port": self.port, "model": spec.model if spec else None,
            "previous": before.model if before else None, "engine": spec.engine.engine if spec else None,
            "order": order, "seconds": round(seconds, 3),
            "load_seconds": round(self.current.load_seconds, 3) if self.current else 0.0,
            "cut": cut, "state": self.state,
        }  # fmt: skip

    async def close(self) -> None:
        """End the slot's own work and its engine; desired state stays."""
        if self._housekeeper:
            self._housekeeper.cancel()
        await self.operations.close()
        await self.resting.end()
        if self.current:
            engine, self.traffic.engine = self.current, None
            engine.cut(RequestError("the slot server is stopping", status=503, code="unavailable"))
            await engine.stop()
