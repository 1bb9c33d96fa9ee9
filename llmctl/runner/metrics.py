"""What a slot counts, for Prometheus. No label carries a string that a client sent.

docs/metrics.md has the table; a test compares the two.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from llmctl import __version__
from llmctl.domain import CANCELLED, LENGTH, STATES, STOP, TIME, TOOLS, Chunk, Identity, Usage
from llmctl.processes import memory_bytes

WINDOW = 10  # seconds over which tokens/s is taken
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
QUEUE = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
WHOLE = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

M = TypeVar("M", bound=MetricWrapperBase)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, of no use to anybody


class Metrics:
    """The counters of one slot server, in a registry of their own. `backend` is the one whose memory it uses."""

    def __init__(self, backend: str = "cpu") -> None:
        self.backend = backend
        self.registry = CollectorRegistry()
        made = self._made
        self._requests = made(Counter, "requests", "Requests answered, by route and status.", "route", "status")
        self._in_flight = made(Gauge, "requests_in_flight", "Requests being answered.")
        self._active = made(Gauge, "active_requests", "Requests the engine works on.")
        self._cut = made(Counter, "requests_cut", "Answers that a swap or unload ended at the finish cap.")
        self._queued = made(Gauge, "queue_depth", "Requests that wait for the engine.")
        self._queue_limit = made(Gauge, "queue_limit", "Requests that may wait at most.")
        self._rejected = made(Counter, "queue_rejected", "Requests the full queue refused.")
        self._waited = made(
            Histogram, "queue_wait_seconds", "How long a request waited for the engine; 0 where it need not.",
            buckets=QUEUE,
        )  # fmt: skip
        self._first_token = made(
            Histogram, "time_to_first_token_seconds", "From the request to its first token.", buckets=FIRST_TOKEN
        )
        self._between = made(
            Histogram, "inter_token_latency_seconds", "From one piece of an answer to the next; most are one token.",
            buckets=BETWEEN,
        )  # fmt: skip
        self._whole = made(
            Histogram, "generation_seconds", "From the request to the end of its answer.", buckets=WHOLE
        )  # fmt: skip
        self._finished = made(Counter, "answers", "Answers that have ended, by why.", "finish")
        self._prompt_tokens = made(Counter, "prompt_tokens", "Tokens of prompts.")
        self._generated = made(Counter, "generated_tokens", "Tokens generated.")
        self._cached = made(Counter, "cached_prompt_tokens", "Tokens of prompts that were not computed again.")
        self._drafted = made(Counter, "draft_tokens", "Tokens that drafts proposed, by outcome.", "outcome")
        self._speed = made(Gauge, "tokens_per_second", f"Generated, over {WINDOW} s.")
        self._held = made(
            Gauge, "cache_tokens", "Tokens that running requests hold in the cache; NaN where the engine does not tell."
        )
        self._cache = made(Gauge, "cache_limit_tokens", "Tokens that running requests can hold at most.")
        self._state = made(Gauge, "slot_state", "1 for the state that the slot is in.", "state")
        self._ready = made(Gauge, "ready", "1 when the engine has generated a token.")
        self._wedged = made(Gauge, "wedged", "1 when the engine has requests and makes no progress.")
        self._load = made(Gauge, "load_seconds", "How long the last load took.")
        self._swaps = made(Counter, "swaps", "Loads and swaps, by outcome.", "outcome")
        self._restarts = made(Counter, "engine_restarts", "Engines that ended unasked.")
        self._memory = made(Gauge, "engine_memory_bytes", "Memory of the loaded engine, as it said when it was ready.")
        self._resident = made(Gauge, "engine_resident_bytes", "Resident memory of the engine's processes now.")
        self._own = made(Gauge, "server_resident_bytes", "Resident memory of the slot server itself.")
        made(Gauge, "server_start_time_seconds", "When the slot server started, epoch seconds.").set(time.time())
        self._info = made(
            Gauge, "slot_info", "1; what the slot runs.",
            "model", "engine", "backend", "device", "architecture", "version",
        )  # fmt: skip
        self._rate = Rate()
        self._begin_at_zero()

    def _made(self, kind: type[M], name: str, meaning: str, *labels: str, **options: Any) -> M:
        return kind(f"llmctl_{name}", meaning, labels, registry=self.registry, **options)

    def _begin_at_zero(self) -> None:
        """The series whose labels are known: a counter that begins with 1 shows no increase."""
        for finish in (STOP, LENGTH, TIME, CANCELLED, TOOLS):
            self._finished.labels(finish)
        for outcome in ("accepted", "rejected"):
            self._drafted.labels(outcome)
        for outcome in ("ok", "failed"):
            self._swaps.labels(outcome)

    def began(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def ended(self, route: str, status: int) -> None:
        """A request was answered. `route` is a path of ours, never the one that the client sent."""
        self._in_flight.dec()
        self._requests.labels(route, str(status)).inc()

    def refused(self, status: int) -> None:
        """A request was refused before it had a route: too large, too slow, or no HTTP."""
        self._requests.labels("none", str(status)).inc()

    def waited(self, seconds: float) -> None:
        """An engine took a request after so long in the queue."""
        self._waited.observe(seconds)

    def first_token(self, seconds: float, prompt_tokens: int) -> None:
        """A request got its first token."""
        self._first_token.observe(seconds)
        self._prompt_tokens.inc(prompt_tokens)

    def next_token(self, seconds: float) -> None:
        """A request got another piece of its answer."""
        self._between.observe(seconds)

    def generated(self, tokens: int) -> None:
        """The engine made `tokens` more."""
        self._generated.inc(tokens)
        self._rate.add(tokens)

    def finished(self, finish: str) -> None:
        """One answer of a request has ended."""
        self._finished.labels(finish).inc()

    def used(self, usage: Usage, told: int, seconds: float) -> None:
        """A request has ended; `told` are its prompt's tokens as its engine counted them at the start, 0 for an engine
        that counts them at the end."""
        self._whole.observe(seconds)
        self._prompt_tokens.inc(0 if told else usage.prompt)
        self._cached.inc(usage.cached)
        self._drafted.labels("accepted").inc(usage.agreed)
        self._drafted.labels("rejected").inc(usage.drafted - usage.agreed)

    def rejected(self) -> None:
        """The queue was full."""
        self._rejected.inc()

    def cut(self, answers: int) -> None:
        """So many answers took longer than a replaced engine may go on."""
        self._cut.inc(answers)

    def loaded(self, seconds: float) -> None:
        """A model was loaded."""
        self._load.set(seconds)

    def swap(self, outcome: str) -> None:
        """A load or swap ended `ok` or `failed`."""
        self._swaps.labels(outcome).inc()

    def restarted(self) -> None:
        """An engine ended unasked."""
        self._restarts.inc()

    def scrape(
        self, health: Mapping[str, Any], identity: Identity | None, figures: Mapping[str, int | None] = {}
    ) -> bytes:
        """The text that Prometheus reads, with the slot's state of this moment (`Service.health`, `.figures`)."""
        self._active.set(health.get("active", 0))
        self._queued.set(health.get("queued", 0))
        self._queue_limit.set(figures.get("queue_limit") or 0)
        self._ready.set(bool(health.get("ready")))
        self._wedged.set(bool(health.get("wedged")))
        for state in STATES:
            self._state.labels(state).set(state == health.get("state"))
        held = figures.get("held")
        self._held.set(float("nan") if held is None else held)
        self._cache.set(identity.context * identity.parallel if identity else 0)
        self._memory.set(identity.memory_bytes if identity else 0)
        self._resident.set(figures.get("resident") or 0)
        self._own.set(memory_bytes(os.getpid()))
        self._speed.set(self._rate.per_second())
        self._tell_model(health, identity)
        return generate_latest(self.registry)

    def _tell_model(self, health: Mapping[str, Any], identity: Identity | None) -> None:
        """One series, that of the present model."""
        self._info.clear()
        model = identity.model if identity else health.get("model") or ""
        engine, device, architecture = (
            (identity.engine, identity.device, identity.architecture) if identity else ("", "", "")
        )
        self._info.labels(model, engine, self.backend, device, architecture, __version__).set(1)


class Meter:
    """Counts one request's chunks as they pass."""

    def __init__(self, metrics: Metrics, began: float, prompt_tokens: int) -> None:
        self._metrics, self._began, self._prompt_tokens = metrics, began, prompt_tokens
        self._last: float | None = None
        self._made = 0

    def see(self, chunks: Sequence[Chunk]) -> Usage | None:
        """Count a batch; the usage of the request when it ends with it."""
        now, tokens = time.monotonic(), sum(chunk.tokens for chunk in chunks)
        if self._last is None:
            self._metrics.first_token(now - self._began, self._prompt_tokens)
        elif tokens:
            self._metrics.next_token(now - self._last)
        usage = chunks[-1].usage
        if usage:  # another server's pieces may be of several tokens each; at the end it tells how many there were
            tokens = max(tokens, usage.completion - self._made)
        self._last, self._made = now, self._made + tokens
        self._metrics.generated(tokens)
        for chunk in chunks:
            if chunk.finish:
                self._metrics.finished(chunk.finish)
        if usage:
            self._metrics.used(usage, self._prompt_tokens, now - self._began)
        return usage


class Rate:
    """Events per second over the last WINDOW whole seconds."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, count: int) -> None:
        second = int(time.monotonic())
        if second not in self._counts:
            self._counts = {s: n for s, n in self._counts.items() if s >= second - WINDOW}
            self._counts[second] = 0
        self._counts[second] += count

    def per_second(self) -> float:
        now = int(time.monotonic())
        return sum(n for s, n in self._counts.items() if now - WINDOW <= s < now) / WINDOW
