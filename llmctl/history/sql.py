"""Rows of the tables from records and back; what other machines told is taken as far as it makes sense."""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.history.records import Check, Event

Db = sqlite3.Connection
CHECK = "at, verdict, why, model, first, rate, queued, memory, codes"
EVENT = "host, id, at, kind, port, model, outcome, what, details"
HEALS = """(SELECT count(*) FROM events e WHERE e.host = i.host AND e.port IS i.port AND e.kind = 'heal'
            AND e.at >= i.opened AND (i.closed IS NULL OR e.at <= i.closed))"""
LONGEST = 4000
AHEAD = 86400.0
"""Seconds that a host's clock may be ahead of this one and be believed: what lies later never gets old."""
SLOT = "(SELECT id FROM slots WHERE host = ? AND port IS ?)"


def slot(db: Db, host: str, port: int | None) -> int:
    db.execute("INSERT OR IGNORE INTO slots (host, port) VALUES (?, ?)", (host, port))
    (found,) = db.execute(f"SELECT {SLOT}", (host, port)).fetchone()
    return int(found)


def note(db: Db, event: Event) -> None:
    said = (clean(event.outcome), clean(event.what), json.dumps(dict(event.details)))
    model = clean(event.model) if event.model else None
    row = (event.host, secrets.token_hex(8), event.at, event.kind, event.port, model, *said)
    db.execute(f"INSERT INTO events ({EVENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def told(host: str, event: object) -> tuple[Any, ...] | None:
    """An event as another machine told it; None when it is none."""
    if not isinstance(event, dict):
        return None
    id, at, kind, port = (event.get(key) for key in ("id", "at", "kind", "port"))
    if not isinstance(id, str) or not isinstance(kind, str) or not id or not kind:
        return None
    if not isinstance(at, int | float) or not 0 <= at < math.inf:
        return None
    moment = float(min(at, time.time() + AHEAD))
    number = port if isinstance(port, int) and 0 < port < 65536 else None
    model, outcome, what = (clean(str(event.get(key) or "")) for key in ("model", "outcome", "what"))
    details = event.get("details")
    kept = json.dumps(details if isinstance(details, dict) else {})
    return host, clean(id)[:64], moment, clean(kind)[:32], number, model or None, outcome, what, kept[: 4 * LONGEST]


def clean(text: str) -> str:
    """What SQLite takes: no lone surrogates, and not too long."""
    return text[:LONGEST].encode(errors="replace").decode()


def of_check(check: Check) -> tuple[Any, ...]:
    """The values of the columns CHECK."""
    model = clean(check.model) if check.model else None
    said = (check.first, check.rate, check.queued, check.memory, clean(" ".join(check.codes)))
    return check.at, check.verdict, clean(check.why), model, *said


def check_of(row: Sequence[Any]) -> Check:
    return Check(*(*row[:10], tuple(str(row[10]).split())))


def event_of(row: Sequence[Any]) -> Event:
    try:
        details = json.loads(row[8])
    except ValueError:
        details = {}
    return Event(*(*row[:8], details if isinstance(details, dict) else {}))


def where(parts: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The conditions that have a value, and the values; a tuple is several."""
    meant = {part: value for part, value in parts.items() if value is not None}
    values = [one for value in meant.values() for one in (value if isinstance(value, tuple) else (value,))]
    return (f" WHERE {' AND '.join(meant)}" if meant else ""), values
