"""The fleet's history: what is kept of it, and what is asked of it. Every failure is a HistoryError."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from llmctl.history import figures, retention, sql
from llmctl.history.database import PATIENCE, Database, T, Work
from llmctl.history.records import Check, Event, Incident, Percentiles

__all__ = ["Check", "Event", "History", "Incident", "Percentiles"]

Db = sqlite3.Connection
SERIES = {
    "first": "avg(first)", "rate": "avg(rate)", "queued": "avg(queued)", "memory": "avg(memory)",
    "up": "avg(CASE verdict WHEN 'down' THEN 0.0 WHEN 'ok' THEN 1.0 WHEN 'degraded' THEN 1.0 END)",
}  # fmt: skip
"""What `series` draws, and how checks of the same moment become one figure."""


class History:
    """One open history; closed by `with` or `close`. Used by any number of threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def open(path: Path, write: bool = True, patience: float = PATIENCE) -> History:
        """The history in `path`; made where there is none, if it is to be written. Waits `patience` seconds for others.

        One that is damaged is put aside and a new one begun, if it is to be written: `said` tells it.
        """
        return History(Database(path, write, patience))

    @property
    def said(self) -> str:
        """What the operator should know of the file; "" for nothing."""
        return self._database.said

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> History:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ── what is kept ────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, host: str, events: Iterable[object], cursor: str) -> int:
        """Keep what `llmctl.events.since` told of a host, and where to go on; how many were new."""
        rows = [row for event in events if (row := sql.told(host, event))]

        def work(db: Db) -> int:
            before = db.total_changes
            db.executemany(f"INSERT OR IGNORE INTO events ({sql.EVENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            new = db.total_changes - before
            db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (host, sql.clean(cursor)))
            retention.prune(db, time.time())
            return new

        return self._changed(work)

    def cursor(self, host: str) -> str:
        """Where a host's events go on; "" for one that was never asked."""
        found = self._database.read(
            lambda db: db.execute("SELECT cursor FROM cursors WHERE host = ?", (host,)).fetchone()
        )
        return str(found[0]) if found else ""

    def note(
        self, host: str, kind: str, *, port: int | None = None, model: str | None = None, outcome: str = "",
        what: str = "", details: Mapping[str, Any] | None = None, at: float | None = None,
    ) -> None:  # fmt: skip
        """Keep something that was done or found from here."""
        moment = time.time() if at is None else at
        self._changed(lambda db: sql.note(db, Event(host, "", moment, kind, port, model, outcome, what, details or {})))

    def checked(self, rows: Sequence[Check]) -> None:
        """Keep a whole health run, or nothing of it; what is too old or too much goes."""

        def work(db: Db) -> None:
            for row in rows:
                slot = sql.slot(db, row.host, row.port)
                added = db.execute(
                    f"INSERT INTO checks (slot, {sql.CHECK}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (slot, *sql.of_check(row)),
                )
                db.execute("UPDATE slots SET newest = ? WHERE id = ?", (added.lastrowid, slot))
            retention.prune(db, time.time())

        self._changed(work)

    def open_incident(self, host: str, port: int | None, at: float, verdict: str, why: str) -> int:
        """The id of the incident that begins, and an event `incident`; that of the one that is open already, where
        there is one: it is told what it is now."""

        def work(db: Db) -> int:
            found = db.execute(
                "SELECT id FROM incidents WHERE closed IS NULL AND host = ? AND port IS ?", (host, port)
            ).fetchone()
            if found:
                said = (verdict, sql.clean(why), found[0])
                db.execute("UPDATE incidents SET verdict = ?, why = ? WHERE id = ?", said)
                return int(found[0])
            new = "INSERT INTO incidents (host, port, opened, verdict, why) VALUES (?, ?, ?, ?, ?)"
            added = db.execute(new, (host, port, at, verdict, sql.clean(why)))
            sql.note(db, Event(host, "", at, "incident", port, None, verdict, why))
            return int(added.lastrowid or 0)

        return self._changed(work)

    def close_incident(self, id: int, at: float) -> None:
        """It is over, and an event `recovered`; nothing when it was before."""

        def work(db: Db) -> None:
            found = db.execute(
                "SELECT host, port, opened, why FROM incidents WHERE id = ? AND closed IS NULL", (id,)
            ).fetchone()
            if found:
                host, port, opened, why = found
                db.execute("UPDATE incidents SET closed = ? WHERE id = ?", (max(at, opened), id))
                lasted = {"seconds": round(at - opened, 1)}
                sql.note(db, Event(host, "", at, "recovered", port, None, "ok", why, lasted))

        self._changed(work)

    def keep_baseline(self, target: str, at: float, told: Mapping[str, Any]) -> None:
        """What the next quality run of `target` is held against, in place of what was."""
        row = (sql.clean(target), at, json.dumps(dict(told)))
        self._changed(lambda db: db.execute("INSERT OR REPLACE INTO baselines VALUES (?, ?, ?)", row))

    def prune(self, now: float) -> None:
        """Forget what is too old or too much (history.retention), and give the room back."""
        self._changed(lambda db: retention.prune(db, now))

    def _changed(self, work: Work[T]) -> T:
        found = self._database.change(work)
        self._database.read(retention.give_back)
        return found

    # ── what is asked ───────────────────────────────────────────────────────────────────────────────────────────────

    def last(self) -> dict[tuple[str, int | None], Check]:
        """The newest check of every slot and host, by (host, port)."""
        rows = self.ask(f"SELECT s.host, s.port, {sql.CHECK} FROM slots s JOIN checks c ON c.id = s.newest")
        return {(row[0], row[1]): sql.check_of(row) for row in rows}

    def figures(
        self, host: str, port: int | None, model: str | None, most: int = 20
    ) -> tuple[list[float], list[float]]:  # fmt: skip
        """Seconds to the first token and tokens/s of a slot's last good answers with this model, the newest last."""
        rows = self.ask(
            f"SELECT first, rate FROM checks WHERE slot = {sql.SLOT} AND model IS ? AND verdict = 'ok' "
            "ORDER BY id DESC LIMIT ?", host, port, model, most,
        )[::-1]  # fmt: skip
        firsts = [float(first) for first, _ in rows if first is not None]
        return firsts, [float(rate) for _, rate in rows if rate is not None]

    def checks(self, host: str, port: int | None, since: float = 0.0, most: int = 2000) -> list[Check]:
        """The newest checks of a slot, the newest last."""
        rows = self.ask(
            f"SELECT {sql.CHECK} FROM checks WHERE slot = {sql.SLOT} AND at >= ? ORDER BY at DESC LIMIT ?",
            host, port, since, most,
        )  # fmt: skip
        return [sql.check_of((host, port, *row)) for row in reversed(rows)]

    def incidents(
        self, open_only: bool = False, since: float | None = None, host: str | None = None, port: int | None = None
    ) -> list[Incident]:
        """Those that were open at some time since, the newest last; `port` None: any."""
        where, values = sql.where({
            "host = ?": host, "port = ?": port, "(closed IS NULL OR closed >= ?)": since,
            "closed IS NULL AND ?": open_only or None,
        })  # fmt: skip
        columns = f"id, host, port, opened, closed, verdict, why, {sql.HEALS}"
        return [
            Incident(*row) for row in self.ask(f"SELECT {columns} FROM incidents i{where} ORDER BY opened", *values)
        ]

    def events(
        self, host: str | None = None, port: int | None = None, since: float | None = None, kinds: Sequence[str] = (),
        most: int = 200,
    ) -> list[Event]:  # fmt: skip
        """The newest events that are meant, the newest last; None: any."""
        among = f"kind IN ({', '.join('?' * len(kinds))})"
        where, values = sql.where({"host = ?": host, "port = ?": port, "at >= ?": since, among: tuple(kinds) or None})
        rows = self.ask(f"SELECT {sql.EVENT} FROM events{where} ORDER BY at DESC, n DESC LIMIT ?", *values, most)
        return [sql.event_of(row) for row in reversed(rows)]

    def baseline(self, target: str) -> tuple[float, dict[str, Any]] | None:
        """When the baseline of `target` was taken, and what it tells; None without one that can be read."""
        for at, told in self.ask("SELECT at, told FROM baselines WHERE target = ?", sql.clean(target)):
            with contextlib.suppress(ValueError, TypeError):
                return float(at), dict(json.loads(told))
        return None

    def uptime(self, host: str, port: int | None, since: float, until: float | None = None) -> float | None:
        """The share of the known time in which a slot answered, 0 to 1; None when nothing is known."""
        until = time.time() if until is None else until
        rows = self.ask(
            f"SELECT at, verdict FROM checks WHERE slot = {sql.SLOT} AND at >= ? AND at < ? ORDER BY at",
            host, port, since - figures.LONGEST_GAP, until,
        )  # fmt: skip
        return figures.uptime(rows, since, until)

    def percentiles(self, host: str, port: int | None, since: float) -> Percentiles:
        """How fast a slot answered its checks."""
        rows = self.ask(
            f"SELECT first, rate FROM checks WHERE slot = {sql.SLOT} AND at >= ? AND first IS NOT NULL",
            host, port, since,
        )  # fmt: skip
        return figures.percentiles([first for first, _ in rows], [rate for _, rate in rows if rate is not None])

    def series(
        self, host: str, port: int | None, what: str, since: float, buckets: int, until: float | None = None
    ) -> list[float | None]:  # fmt: skip
        """What a slot was (of SERIES) in `buckets` equal parts of the time since; None where nothing is known."""
        until = time.time() if until is None else until
        width = max((until - since) / buckets, 1e-3)
        rows = self.ask(
            f"SELECT CAST((at - ?) / ? AS INTEGER) AS part, {SERIES[what]} FROM checks "
            f"WHERE slot = {sql.SLOT} AND at >= ? AND at < ? GROUP BY part", since, width, host, port, since, until,
        )  # fmt: skip
        found = dict(rows)
        return [found.get(part) for part in range(buckets)]

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self._database.read(lambda db: db.execute(query, values).fetchall())
