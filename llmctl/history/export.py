"""History as rows for other programs: checks, events and incidents under one set of columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from llmctl.history import sql
from llmctl.history.records import Event
from llmctl.history.store import History

COLUMNS = (
    "record", "time", "host", "port", "kind", "verdict", "outcome", "model", "why", "first", "rate", "queued", "memory",
    "codes", "closed", "heals", "id", "details",
)  # fmt: skip
FORMATS = ("csv", "jsonl")
PAGE = 5000

Meant = Callable[[str, "int | None"], bool]


def rows(history: History, since: float, meant: Meant) -> Iterator[dict[str, Any]]:
    """All records from `since` on of the hosts and ports that are meant, of each kind the oldest first."""
    for found in (_checks(history, since), _events(history, since), _incidents(history, since)):
        yield from (row for row in found if meant(row["host"], row["port"]))


def as_text(found: Iterable[Mapping[str, Any]], form: str) -> Iterator[str]:
    """Pieces of a file of one of FORMATS."""
    if form == "jsonl":
        yield from (json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in found:
        flat = {**row, "codes": " ".join(row.get("codes", ())), "details": json.dumps(row.get("details") or {})}
        writer.writerow({key: _harmless(value) for key, value in flat.items()})
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, kept from it by an apostrophe, as OWASP has it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _checks(history: History, since: float) -> Iterator[dict[str, Any]]:
    query = (
        f"SELECT s.host, s.port, {sql.CHECK}, c.id FROM checks c JOIN slots s ON s.id = c.slot "
        "WHERE c.id > ? AND at >= ? ORDER BY c.id LIMIT ?"
    )
    last = 0
    while page := history.ask(query, last, since, PAGE):
        last = page[-1][-1]
        for row in page:
            check = asdict(sql.check_of(row[:-1]))
            yield {"record": "check", "time": _time(check.pop("at")), **check}


def _events(history: History, since: float) -> Iterator[dict[str, Any]]:
    query = f"SELECT {sql.EVENT}, n FROM events WHERE (at, n) > (?, ?) ORDER BY at, n LIMIT ?"
    last: tuple[Any, ...] = (since, -1)
    while page := history.ask(query, *last, PAGE):
        last = (page[-1][2], page[-1][-1])
        yield from (_event(sql.event_of(row)) for row in page)


def _event(event: Event) -> dict[str, Any]:
    said = asdict(event)
    return {"record": "event", "time": _time(said.pop("at")), "why": said.pop("what"), **said}


def _incidents(history: History, since: float) -> Iterator[dict[str, Any]]:
    for incident in history.incidents(since=since):
        said = asdict(incident)
        said["closed"] = _time(incident.closed) if incident.closed else None
        yield {"record": "incident", "time": _time(said.pop("opened")), **said}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds")
