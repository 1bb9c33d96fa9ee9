"""What `llmctl test-models` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import Table, View, duration, escaped


def _matrix(data: Mapping[str, Any]) -> str | Table:
    rows = data["rows"]
    if not rows:
        return "Nothing ran: no model here is meant."
    several = len({row["host"] for row in rows}) > 1
    heads = [*(["HOST"] if several else []), "ARCH", "MODEL", "ENGINE", "FORMAT", "STATUS", "TIME", "WHY"]
    return Table(heads, [[*([row["host"]] if several else []), *_cells(row)] for row in rows], right=("TIME",))


def _cells(row: Mapping[str, Any]) -> list[str]:
    format = f"{row['format']} {row['quantization']}" if row["quantization"] else row["format"]
    told = escaped(row["why"])
    return [row["arch"], row["model"], row["engine"], format, row["status"], duration(row["seconds"]), told]


VIEWS: dict[str, View] = {"test-models": _matrix}
