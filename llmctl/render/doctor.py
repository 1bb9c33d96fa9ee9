"""What `llmctl doctor` shows: the machines side by side, then each finding with the command that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmctl.render.text import Table, View, escaped, plain_table

HERE = "this machine"
WORST_FIRST = ("fail", "warn", "pass")
BESIDE = 6
"""Machines in a row of the table."""

Row = Mapping[str, Any]


def _doctor(data: Mapping[str, Any]) -> str:
    if "report" in data:
        return escaped_lines(data["report"])
    rows: Sequence[Row] = data["rows"]
    return "\n\n".join([*_tables(rows), *_findings(rows), _sum(rows)])


def escaped_lines(text: str) -> str:
    """A text of several lines, with its other control characters made visible."""
    return "\n".join(escaped(line) for line in text.split("\n"))


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    """A column of each machine, a line of each check: the worst that it found."""
    names = list(dict.fromkeys(row["host"] for row in rows))
    for start in range(0, len(names), BESIDE):
        some = names[start : start + BESIDE]
        checks = list(dict.fromkeys(row["check"] for row in rows if row["host"] in some))
        lines = [[check, *(_worst(rows, name, check) for name in some)] for check in checks]
        yield plain_table(Table(["CHECK", *(escaped(name or HERE) for name in some)], lines))


def _worst(rows: Sequence[Row], host: str | None, check: str) -> str:
    found = {row["status"] for row in rows if (row["host"], row["check"]) == (host, check)}
    return next((status for status in WORST_FIRST if status in found), "-")


def _findings(rows: Sequence[Row]) -> Iterator[str]:
    """The worst first, each with its command on a line of its own."""
    found = [row for row in rows if row["status"] != "pass"]
    for row in sorted(found, key=lambda row: WORST_FIRST.index(row["status"])):
        where = escaped(row["host"] or HERE)
        yield f"{row['status']}  {where}, {row['check']}: {escaped(row['why'])}\n      {escaped(row['fix'] or '-')}"


def _sum(rows: Sequence[Row]) -> str:
    counts = [sum(row["status"] == status for row in rows) for status in ("pass", "warn", "fail")]
    return f"{counts[0]} passed, {counts[1]} warned, {counts[2]} failed"


VIEWS: dict[str, View] = {"doctor": _doctor}
