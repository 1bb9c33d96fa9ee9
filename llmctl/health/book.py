"""The history of a health run, as far as it works: what fails there is told once, and the run goes on without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llmctl.errors import HistoryError
from llmctl.events import FAILED
from llmctl.events import OK as OUTCOME_OK
from llmctl.health.heal import DOES, Healed
from llmctl.health.rows import Row
from llmctl.health.verdict import DEGRADED, DOWN, OK, UNKNOWN
from llmctl.history import NAME
from llmctl.history.records import Check, Event, Incident
from llmctl.history.store import History

NOTIFY = "notify"
T = TypeVar("T")
Key = tuple[str, int | None]


class Book:
    """One run's use of history.db in the state folder; `errors` are why it has none, or none any more."""

    def __init__(self, home: Path) -> None:
        self.errors: list[HistoryError] = []
        self._history: History | None = None
        try:
            self._history = History.open(home / NAME)
        except HistoryError as error:
            self.errors.append(error)

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        if self._history:
            self._history.close()

    @property
    def notes(self) -> list[str]:
        """What the operator should know of the file."""
        return [self._history.said] if self._history and self._history.said else []

    # ── what was ────────────────────────────────────────────────────────────────────────────────────────────────────

    def cursor(self, host: str) -> str:
        """Where the events of a host go on."""
        return self._ask(lambda history: history.cursor(host), "")

    def known(self, host: str) -> list[Check]:
        """The last check of each slot of a host."""
        nothing: Mapping[Key, Check] = {}
        last = self._ask(lambda history: history.last(), nothing)
        return [check for (name, port), check in last.items() if name == host and port is not None]

    def figures(self, host: str, port: int, model: str | None, most: int) -> tuple[list[float], list[float]]:
        """Seconds to the first token and tokens/s of the slot's last good answers."""
        nothing: tuple[list[float], list[float]] = ([], [])
        return self._ask(lambda history: history.figures(host, port, model, most), nothing)

    def open_since(self) -> Mapping[Key, Incident]:
        """The incidents that are open."""
        nothing: list[Incident] = []
        found = self._ask(lambda history: history.incidents(open_only=True), nothing)
        return {(incident.host, incident.port): incident for incident in found}

    def healed(self, since: float) -> list[Healed]:
        """What was done to slots since then."""
        nothing: list[Event] = []
        events = self._ask(lambda history: history.events(since=since, kinds=("heal",), most=2000), nothing)
        actions = [(event, str(event.details.get("action"))) for event in events]
        return [Healed(e.host, e.port, e.at, action) for e, action in actions if e.port is not None and action in DOES]

    # ── what is ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, host: str, events: Sequence[Mapping[str, Any]], cursor: str) -> None:
        """What has happened on a host since it was asked last."""
        self._ask(lambda history: history.take(host, events, cursor), 0)

    def checked(self, rows: Sequence[Row]) -> None:
        """Keep what was found; incidents begin, go on and end by it."""
        self._ask(lambda history: history.checked([row.check() for row in rows]), None)
        incidents, silent = self.open_since(), {row.host for row in rows if row.port is None and _is(row, UNKNOWN)}
        for row in rows:
            if row.port is not None and row.host in silent:
                continue  # the host's own incident tells it
            if row.judged.verdict in (DOWN, DEGRADED, UNKNOWN):
                self._open(row)
            elif row.key in incidents and (row.judged.verdict == OK or row.given_up):
                self._close(incidents[row.key].id, row.at)

    def did(self, row: Row, action: str, outcome: str, why: str) -> None:
        """Something was done to a slot that was down."""
        self._ask(
            lambda history: history.note(
                row.host, "heal", port=row.port, model=row.desired, outcome=outcome, what=why,
                details={"action": action}, at=row.at,
            ), None,
        )  # fmt: skip

    def told(self, target: str, title: str, at: float) -> None:
        """Somebody was told of it."""
        self._ask(lambda history: history.note(target, NOTIFY, outcome=OUTCOME_OK, what=title, at=at), None)

    def not_told(self, target: str, title: str, why: str, at: float) -> None:
        """Somebody could not be told: kept once, and not again for as long as it goes on."""
        nothing: list[Event] = []
        last = self._ask(lambda history: history.events(host=target, kinds=(NOTIFY,), most=1), nothing)
        if not last or last[-1].outcome != FAILED:
            what = f"{title}: {why}"
            self._ask(lambda history: history.note(target, NOTIFY, outcome=FAILED, what=what, at=at), None)

    def _open(self, row: Row) -> None:
        self._ask(
            lambda history: history.open_incident(row.host, row.port, row.at, row.judged.verdict, row.judged.why), 0
        )

    def _close(self, id: int, at: float) -> None:
        self._ask(lambda history: history.close_incident(id, at), None)

    def _ask(self, work: Callable[[History], T], usual: T) -> T:
        """What `work` gives; after a failure there is no history any more."""
        if self._history is None:
            return usual
        try:
            return work(self._history)
        except HistoryError as error:
            self.errors.append(error)
            self._history = None
            return usual


def _is(row: Row, verdict: str) -> bool:
    return row.judged.verdict == verdict
