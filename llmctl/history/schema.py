"""The tables of history, and the steps that lead from an older version to this one."""

from __future__ import annotations

import sqlite3

APPLICATION = 0x6C6C6D63
"""What SQLite keeps in the file's header: "llmc"."""

STEPS = (
    """
    CREATE TABLE slots (id INTEGER PRIMARY KEY, host TEXT NOT NULL, port INTEGER, newest INTEGER);
    CREATE UNIQUE INDEX slots_once ON slots (host, ifnull(port, 0));
    CREATE TABLE checks (
        id INTEGER PRIMARY KEY, slot INTEGER NOT NULL, at REAL NOT NULL, verdict TEXT NOT NULL, why TEXT NOT NULL,
        model TEXT, first REAL, rate REAL, queued INTEGER NOT NULL, memory INTEGER NOT NULL, codes TEXT NOT NULL
    );
    CREATE INDEX checks_by_time ON checks (slot, at);
    CREATE INDEX checks_good ON checks (slot, model) WHERE verdict = 'ok';
    CREATE TABLE events (
        n INTEGER PRIMARY KEY, host TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, port INTEGER,
        model TEXT, outcome TEXT NOT NULL, what TEXT NOT NULL, details TEXT NOT NULL
    );
    CREATE UNIQUE INDEX events_once ON events (host, id);
    CREATE INDEX events_by_time ON events (at);
    CREATE INDEX events_by_slot ON events (host, port, at);
    CREATE TABLE incidents (
        id INTEGER PRIMARY KEY AUTOINCREMENT, host TEXT NOT NULL, port INTEGER, opened REAL NOT NULL, closed REAL,
        verdict TEXT NOT NULL, why TEXT NOT NULL
    );
    CREATE INDEX incidents_by_end ON incidents (closed);
    CREATE TABLE cursors (host TEXT PRIMARY KEY, cursor TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE baselines (target TEXT PRIMARY KEY, at REAL NOT NULL, told TEXT NOT NULL) WITHOUT ROWID;
    """,
)
"""A released step is never changed: what is new goes into another one."""


class OlderSchema(Exception):
    """The file has fewer steps behind it than there are."""


class NewerSchema(Exception):
    """The file was written by a newer llmctl; the version is the argument."""


class ForeignFile(Exception):
    """The file is a database of something else."""


def check(db: sqlite3.Connection) -> None:
    """Raise what keeps this llmctl from using the file as it is."""
    db.execute("BEGIN")  # of one moment: another process may be making it
    try:
        version, application = _pragma(db, "user_version"), _pragma(db, "application_id")
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        db.execute("ROLLBACK")
    if application != APPLICATION and (application or tables):
        raise ForeignFile
    if version > len(STEPS):
        raise NewerSchema(version)
    if version < len(STEPS):
        raise OlderSchema


def migrate(db: sqlite3.Connection) -> None:
    """Take the file to this version, whole or not at all; nothing when another process did it meanwhile."""
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; an old one keeps what it has
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in STEPS[_pragma(db, "user_version") :]:
            for statement in filter(str.strip, step.split(";")):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {len(STEPS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _pragma(db: sqlite3.Connection, name: str) -> int:
    (value,) = db.execute(f"PRAGMA {name}").fetchone()
    return int(value)
