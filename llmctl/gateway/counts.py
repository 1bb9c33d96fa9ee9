"""What the gateway counts, for Prometheus: bounded labels, since handles and keys are an operator's."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from llmctl.gateway.registry import Registry
from llmctl.gateway.replicas import Live
from llmctl.gateway.usage import Usage

disable_created_metrics()  # type: ignore[no-untyped-call]  # as of a slot
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
NOBODY = ""
"""The key of requests without one."""


class Counts:
    """The metrics of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"llmctl_gateway_{name}", meaning, labels, registry=self.registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"llmctl_gateway_{name}", meaning, labels, registry=self.registry)

        def histogram(name: str, meaning: str) -> Histogram:
            return Histogram(f"llmctl_gateway_{name}", meaning, ("handle",), buckets=BUCKETS, registry=self.registry)

        self._requests = counter("requests", "Requests (status 499: the client went away).", "handle", "status")
        self._seconds = histogram("request_seconds", "From a request to the end of its answer.")
        self._first = histogram("first_byte_seconds", "From a request to the head of its answer.")
        self._tokens = counter("tokens", "Tokens by who asked.", "handle", "key", "kind")
        self._cost = counter("cost", "What they cost, by the prices of the handles.", "handle", "key")
        self._retries = counter("retries", "Requests asked again elsewhere.", "handle")
        self._refused = counter("refused", "Requests that no handle was asked for, by status.", "status")
        self._limited = counter("limited", "Requests over a key's limits.", "key", "code")
        self._up = gauge("replica_up", "1 when it is asked, 0 when it rests.", "replica")
        self._load = gauge("replica_tokens", "Tokens that it has to do.", "replica")
        self._slots = gauge("handle_replicas", "Slots that are asked for it, or loaded for it on demand.", "handle")
        self._error = gauge("registry_error", "1 when the registry makes no sense, and the one before goes on.")

    def answered(self, handle: str, status: int, seconds: float) -> None:
        self._requests.labels(handle, str(status)).inc()
        self._seconds.labels(handle).observe(seconds)

    def first(self, handle: str, seconds: float) -> None:
        self._first.labels(handle).observe(seconds)

    def spent(self, handle: str, key: str | None, usage: Usage, cost: float) -> None:
        self._tokens.labels(handle, key or NOBODY, "prompt").inc(usage.prompt)
        self._tokens.labels(handle, key or NOBODY, "completion").inc(usage.completion)
        if cost:
            self._cost.labels(handle, key or NOBODY).inc(cost)

    def retried(self, handle: str, times: int) -> None:
        if times:
            self._retries.labels(handle).inc(times)

    def refused(self, status: int) -> None:
        self._refused.labels(str(status)).inc()

    def limited(self, key: str, code: str) -> None:
        self._limited.labels(key, code).inc()

    def text(self, lives: Mapping[str, Live], registry: Registry, error: bool = False) -> bytes:
        """The page. `lives` are the replicas by HOST:PORT; a slot is `replica`, since `host` and `port` are ours."""
        self._up.clear()
        self._load.clear()
        self._slots.clear()
        for where, live in lives.items():
            self._up.labels(where).set(not live.standing.resting)
            self._load.labels(where).set(live.load.tokens)
        for handle in registry.handles.values():
            found = [lives[one.where] for one in handle.replicas if one.where in lives]
            self._slots.labels(handle.name).set(sum(one.replica.on_demand or not one.standing.resting for one in found))
        self._error.set(error)
        return generate_latest(self.registry)
