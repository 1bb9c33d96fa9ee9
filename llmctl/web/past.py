"""What the pages show of the past: read from the operator's history, and nothing where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmctl.errors import HistoryError
from llmctl.history.records import Check, Event, Incident, Percentiles
from llmctl.history.store import History
from llmctl.render.text import size
from llmctl.web import charts
from llmctl.web.charts import Chart, Span
from llmctl.web.texts import moment

PATIENCE = 1.0
"""Seconds that a page waits for another process that writes."""
FRESH = 3.0
"""Seconds for which what was read about all slots is shown again."""
SPANS = {"1h": 3600.0, "6h": 6 * 3600.0, "1d": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0}
USUAL = "1d"
BUCKETS = 120
EVENTS = 30
MANY = 200


@dataclass(frozen=True)
class Standing:
    """The last verdicts, by host and port (None: of the host), and the incidents that are open."""

    checks: Mapping[tuple[str, int | None], Check] = field(default_factory=dict)
    incidents: Sequence[Incident] = ()
    why: str = ""


@dataclass(frozen=True)
class SlotPast:
    """One slot over some time; `up` is a share, `figures` names with texts. `why`: what is missing from it."""

    charts: Sequence[Chart] = ()
    strip: Sequence[Span] = ()
    up: float | None = None
    figures: Sequence[tuple[str, str]] = ()
    events: Sequence[Event] = ()
    why: str = ""


@dataclass(frozen=True)
class Story:
    """Incidents and events of many slots, the newest first."""

    incidents: Sequence[Incident] = ()
    events: Sequence[Event] = ()
    why: str = ""


class Past:
    """The history in `path`; nothing of it can fail a page."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._standing, self._read_at = Standing(), -FRESH

    def standing(self) -> Standing:
        """As it was within the last FRESH seconds."""
        with self._lock:
            now = time.monotonic()
            if now - self._read_at >= FRESH:
                self._standing, self._read_at = self._stands(), now
            return self._standing

    def _stands(self) -> Standing:
        try:
            with History.open(self._path, write=False, patience=PATIENCE) as history:
                return Standing(history.last(), history.incidents(open_only=True)[::-1])
        except HistoryError as error:
            return Standing(why=_why(error))

    def slot(self, host: str, port: int, span: str) -> SlotPast:
        """One slot over one of SPANS."""
        until = self._clock()
        since = until - SPANS[span]
        try:
            with History.open(self._path, write=False, patience=PATIENCE) as history:

                def drawn(title: str, what: str, text: Callable[[float], str]) -> Chart:
                    series = history.series(host, port, what, since, BUCKETS, until)
                    return charts.line(title, _points(series, since, until), since, until, text)

                ups = history.series(host, port, "up", since, BUCKETS, until)
                return SlotPast(
                    (
                        drawn("first token", "first", lambda value: f"{value:.2f} s"),
                        drawn("tokens/s", "rate", lambda value: f"{value:.1f}"),
                        drawn("queue", "queued", lambda value: f"{value:.0f}"),
                        drawn("memory", "memory", lambda value: size(int(value))),
                    ),
                    charts.strip([_up(value) for value in ups], since, until, moment) if _any_known(ups) else (),
                    history.uptime(host, port, since, until),
                    _figures(history.percentiles(host, port, since)),
                    history.events(host, port, since, most=EVENTS)[::-1],
                )  # fmt: skip
        except HistoryError as error:
            return SlotPast(why=_why(error))

    def story(self, span: str, host: str | None, kind: str | None) -> Story:
        """What happened in one of SPANS; None: on any host, of any kind."""
        since = self._clock() - SPANS[span]
        try:
            with History.open(self._path, write=False, patience=PATIENCE) as history:
                incidents = history.incidents(since=since, host=host)[-MANY:][::-1]
                events = history.events(host, None, since, (kind,) if kind else (), MANY)[::-1]
                return Story(incidents, events)
        except HistoryError as error:
            return Story(why=_why(error))


def _any_known(series: Sequence[float | None]) -> bool:
    return any(value is not None for value in series)


def _points(series: Sequence[float | None], since: float, until: float) -> list[charts.Point]:
    """Each bucket's figure at its middle."""
    width = (until - since) / len(series)
    return [(since + (at + 0.5) * width, value) for at, value in enumerate(series) if value is not None]


def _up(value: float | None) -> str:
    return "not looked at" if value is None else "up" if value >= 1 else "partly up" if value > 0 else "down"


def _figures(found: Percentiles) -> list[tuple[str, str]]:
    if not found.checks:
        return []
    seconds = [("first token p50", found.first_p50), ("first token p95", found.first_p95)]
    rates = [("tokens/s p50", found.rate_p50), ("tokens/s p95", found.rate_p95)]
    return [
        *((name, f"{value:.2f} s") for name, value in seconds if value is not None),
        *((name, f"{value:.1f}") for name, value in rates if value is not None),
        ("health runs", str(found.checks)),
    ]


def _why(error: HistoryError) -> str:
    return f"{error.message}{f' ({error.hint})' if error.hint else ''}"
