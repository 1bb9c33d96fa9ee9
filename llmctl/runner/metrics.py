"""What a slot counts, for Prometheus. No label carries a string that a client sent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmctl.domain import Chunk, Identity, Usage

WINDOW = 10  # seconds over which tokens/s is taken
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one slot server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "llmctl_requests", "Requests answered, by route and status.", ["route", "status"], registry=registry
        )
        self._in_flight = Gauge("llmctl_requests_in_flight", "Requests being answered.", registry=registry)
        self._active = Gauge("llmctl_active_requests", "Requests the engine works on.", registry=registry)
        self._queued = Gauge("llmctl_queue_depth", "Requests that wait for the engine.", registry=registry)
        self._rejected = Counter("llmctl_queue_rejected", "Requests the full queue refused.", registry=registry)
        self._first_token = Histogram(
            "llmctl_time_to_first_token_seconds", "From the request to its first token.",
            buckets=FIRST_TOKEN, registry=registry,
        )  # fmt: skip
        self._prompt_tokens = Counter("llmctl_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._generated = Counter("llmctl_generated_tokens", "Tokens generated.", registry=registry)
        self._cached = Counter(
            "llmctl_cached_prompt_tokens", "Tokens of prompts that were not computed again.", registry=registry
        )
        self._drafted = Counter(
            "llmctl_draft_tokens",
            "Tokens that drafts proposed, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self._speed = Gauge("llmctl_tokens_per_second", f"Generated, over {WINDOW} s.", registry=registry)
        self._ready = Gauge("llmctl_ready", "1 when the engine has generated a token.", registry=registry)
        self._load = Gauge("llmctl_load_seconds", "How long the last load took.", registry=registry)
        self._swaps = Counter("llmctl_swaps", "Loads and swaps, by outcome.", ["outcome"], registry=registry)
        self._restarts = Counter("llmctl_engine_restarts", "Engines that ended unasked.", registry=registry)
        self._memory = Gauge("llmctl_engine_memory_bytes", "Memory of the loaded engine.", registry=registry)
        self._rate = Rate()

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

    def first_token(self, seconds: float, prompt_tokens: int) -> None:
        """A request got its first token."""
        self._first_token.observe(seconds)
        self._prompt_tokens.inc(prompt_tokens)

    def generated(self, tokens: int) -> None:
        """The engine made `tokens` more."""
        self._generated.inc(tokens)
        self._rate.add(tokens)

    def used(self, usage: Usage, told: int) -> None:
        """A request has ended; `told` are its prompt's tokens as its engine counted them at the start, 0 for an engine
        that counts them at the end."""
        self._prompt_tokens.inc(0 if told else usage.prompt)
        self._cached.inc(usage.cached)
        self._drafted.labels("accepted").inc(usage.agreed)
        self._drafted.labels("rejected").inc(usage.drafted - usage.agreed)

    def rejected(self) -> None:
        """The queue was full."""
        self._rejected.inc()

    def loaded(self, seconds: float) -> None:
        """A model was loaded."""
        self._load.set(seconds)

    def swap(self, outcome: str) -> None:
        """A load or swap ended `ok` or `failed`."""
        self._swaps.labels(outcome).inc()

    def restarted(self) -> None:
        """An engine ended unasked."""
        self._restarts.inc()

    def scrape(self, health: Mapping[str, Any], identity: Identity | None) -> bytes:
        """The text that Prometheus reads, with the slot's state of this moment."""
        self._active.set(health.get("active", 0))
        self._queued.set(health.get("queued", 0))
        self._ready.set(bool(health.get("ready")))
        self._memory.set(identity.memory_bytes if identity else 0)
        self._speed.set(self._rate.per_second())
        return generate_latest(self.registry)


class Meter:
    """Counts one request's chunks as they pass."""

    def __init__(self, metrics: Metrics, began: float, prompt_tokens: int) -> None:
        self._metrics, self._began, self._prompt_tokens = metrics, began, prompt_tokens
        self._first = True

    def see(self, chunks: Sequence[Chunk]) -> Usage | None:
        """Count a batch; the usage of the request when it ends with it."""
        if self._first:
            self._first = False
            self._metrics.first_token(time.monotonic() - self._began, self._prompt_tokens)
        self._metrics.generated(sum(chunk.tokens for chunk in chunks))
        usage = chunks[-1].usage
        if usage:
            self._metrics.used(usage, self._prompt_tokens)
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
