"""What `llmctl history` shows: a line for each slot with its figures as lines, incidents, and events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.render.text import Table, View, duration, escaped, plain_table

BLOCKS = "▁▂▃▄▅▆▇█"
SLOTS = (
    "SLOT", "MODEL", "VERDICT", "UP", "FIRST p50", "p95", "TOK/S p50", "p95 ", "CHECKS", "FIRST TOKEN", "TOKENS/S",
)  # fmt: skip


def sparkline(values: Sequence[float | None]) -> str:
    """Figures from 0 to the largest of them as a line of blocks; a gap where nothing is known."""
    top = max((value for value in values if value), default=1.0)
    return "".join(" " if v is None else BLOCKS[round(v / top * (len(BLOCKS) - 1))] for v in values)


def _history(data: Mapping[str, Any]) -> str:
    parts = []
    if data["slots"]:
        right = tuple(header for header in SLOTS[3:9])
        parts.append(plain_table(Table(SLOTS, [_slot(slot) for slot in data["slots"]], right)))
    if data["incidents"]:
        headers = ("SINCE", "UNTIL", "WHERE", "WHAT", "HEALS", "WHY")
        parts.append(plain_table(Table(headers, [_incident(one) for one in data["incidents"]], ("HEALS",))))
    if data["events"]:
        headers = ("AT", "WHERE", "EVENT", "OUTCOME", "MODEL", "WHAT")
        parts.append(plain_table(Table(headers, [_event(event) for event in data["events"]])))
    told = [f"{host}: {count} new events" for host, count in data["synced"].items()]
    notes = [*told, *data["notes"]]
    if not parts and not data["notes"]:
        notes.append(f"nothing happened since {_moment(data['since'])}")
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _slot(slot: Mapping[str, Any]) -> tuple[str, ...]:
    series = slot["series"]
    return (
        f"{slot['host']}:{slot['port']}", escaped(slot["model"] or "-"), slot["verdict"],
        "-" if slot["uptime"] is None else _percent(slot["uptime"]),
        _seconds(slot["first_p50"]), _seconds(slot["first_p95"]), _rate(slot["rate_p50"]), _rate(slot["rate_p95"]),
        str(slot["checks"]), sparkline(series["first"]), sparkline(series["rate"]),
    )  # fmt: skip


def _incident(one: Mapping[str, Any]) -> tuple[str, ...]:
    until = "open" if one["closed"] is None else duration(one["closed"] - one["opened"])
    return _moment(one["opened"]), until, _where(one), one["verdict"], str(one["heals"] or "-"), escaped(one["why"])


def _event(event: Mapping[str, Any]) -> tuple[str, ...]:
    told = {key: value for key, value in event["details"].items() if key in ("previous", "seconds", "who") and value}
    if seconds := told.get("seconds"):
        told["seconds"] = duration(float(seconds))
    previous = [f"instead of {told['previous']}"] if told.get("previous") not in (None, event["model"]) else []
    by = [f"by {told['who']}"] if "who" in told and told["who"] != "llmctl" else []
    after = [f"after {told['seconds']}"] if "seconds" in told else []
    what = escaped(", ".join(map(str, [*([event["what"]] if event["what"] else []), *previous, *after, *by])))
    where = (_moment(event["at"]), _where(event))
    return *where, escaped(event["kind"]), escaped(event["outcome"]), escaped(event["model"] or "-"), what


def _where(row: Mapping[str, Any]) -> str:
    return f"{row['host']}:{row['port']}" if row["port"] else str(row["host"])


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _percent(share: float) -> str:
    """100 % only where nothing is missing."""
    return "100 %" if share == 1 else f"{min(share * 100, 99.99):.2f} %"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.0f} ms" if value < 10 else duration(value)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _export(data: Mapping[str, Any]) -> str:
    return f"{data['count']} rows in {data['out']}"


VIEWS: dict[str, View] = {"history": _history, "history show": _history, "history export": _export}
