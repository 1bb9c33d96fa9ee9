"""The rows of history. Moments are epoch seconds, durations seconds, memory bytes; `port` None is the host itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """What one health run thought of a slot or host: seconds to its `first` token, `rate` in tokens/s, and the codes of
    what was found."""

    host: str
    port: int | None
    at: float
    verdict: str
    why: str = ""
    model: str | None = None
    first: float | None = None
    rate: float | None = None
    queued: int = 0
    memory: int = 0
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """What happened on a host (llmctl.events), or what was done about it from here. `id` is unique to its host."""

    host: str
    id: str
    at: float
    kind: str
    port: int | None = None
    model: str | None = None
    outcome: str = ""
    what: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Incident:
    """From when a slot or host was not well until it was again (None: still is not); `heals` counts what was tried."""

    id: int
    host: str
    port: int | None
    opened: float
    closed: float | None
    verdict: str
    why: str
    heals: int = 0


@dataclass(frozen=True)
class Percentiles:
    """Of `checks` answers: half were as fast as p50, and 95 of 100 as fast as p95. None where there was no answer."""

    first_p50: float | None = None
    first_p95: float | None = None
    rate_p50: float | None = None
    rate_p95: float | None = None
    checks: int = 0
