"""How much of the past is kept: by age and by size."""

from __future__ import annotations

import sqlite3

DAY = 86400.0
CHECKS = 90 * DAY
EVENTS = 400 * DAY
"""Of events, of baselines, and of incidents that are over; one that is not stays."""
LARGEST = 256 * 10**6
"""Bytes. Beyond them the oldest checks go, and then the oldest events."""
TENTH = 10


def prune(db: sqlite3.Connection, now: float) -> None:
    """Forget what is too old, or too much; within the caller's transaction."""
    for (slot,) in db.execute("SELECT id FROM slots").fetchall():
        db.execute("DELETE FROM checks WHERE slot = ? AND at < ?", (slot, now - CHECKS))
    db.execute("DELETE FROM events WHERE at < ?", (now - EVENTS,))
    db.execute("DELETE FROM incidents WHERE closed < ?", (now - EVENTS,))
    db.execute("DELETE FROM baselines WHERE at < ?", (now - EVENTS,))
    while used(db) > LARGEST and (_oldest_checks(db) or _oldest_events(db)):
        pass


def give_back(db: sqlite3.Connection) -> None:
    """Make the file smaller when a quarter of it is empty; outside a transaction."""
    if 4 * _pragma(db, "freelist_count") > _pragma(db, "page_count"):
        db.executescript("PRAGMA incremental_vacuum")  # `execute` would take its first step alone, a page


def used(db: sqlite3.Connection) -> int:
    """Bytes of the pages that hold something."""
    return (_pragma(db, "page_count") - _pragma(db, "freelist_count")) * _pragma(db, "page_size")


def _oldest_checks(db: sqlite3.Connection) -> bool:
    low, high = db.execute("SELECT min(id), max(id) FROM checks").fetchone()
    if low is None:
        return False
    db.execute("DELETE FROM checks WHERE id <= ?", (low + (high - low) // TENTH,))
    return True


def _oldest_events(db: sqlite3.Connection) -> bool:
    (count,) = db.execute("SELECT count(*) FROM events").fetchone()
    db.execute("DELETE FROM events WHERE n IN (SELECT n FROM events ORDER BY at LIMIT ?)", (count // TENTH + 1,))
    return bool(count)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    (value,) = db.execute(f"PRAGMA {name}").fetchone()
    return int(value)
