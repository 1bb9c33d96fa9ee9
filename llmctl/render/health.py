"""What the verbs of `llmctl.cli.health` show."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmctl.render.text import Table, View, duration, escaped

HEADERS = ["HOST", "PORT", "MODEL", "VERDICT", "FIRST", "TOK/S", "SINCE", "WHY", "TYPE"]


def _health(data: Mapping[str, Any]) -> str | Table:
    """All slots, and the hosts that are not well; with --quiet only what changed."""
    if data["notes"] and not data["slots"]:
        return "\n".join(data["notes"])
    if data["quiet"]:
        return "\n".join([*(_changed(change) for change in data["changes"]), *data["notes"]])
    hosts = [host for host in data["hosts"] if host["verdict"] != "ok"]
    rows = [_row(row) for row in [*hosts, *data["slots"]]]
    if not rows:
        return "no slot should be up; start one with: llmctl load 8101 MODEL"
    return Table(HEADERS, sorted(rows), right=("PORT", "FIRST", "TOK/S", "SINCE"))


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    findings = row["findings"]
    why = "; ".join([*(finding["why"] for finding in findings), *([row["healed"]] if row.get("healed") else [])])
    first, rate, since = row.get("first_token"), row.get("tokens_per_second"), row.get("since")
    return (
        row["host"], str(row["port"] or "-"), row.get("desired") or "-", row["verdict"],
        f"{first * 1000:.0f} ms" if first else "-", f"{rate:.1f}" if rate else "-",
        duration(max(0.0, time.time() - since)) if since else "-", escaped(why),
        next((finding["fix"] for finding in findings if finding["fix"]), ""),
    )  # fmt: skip


def _changed(change: Mapping[str, Any]) -> str:
    where = change["host"] + (f":{change['port']}" if change["port"] else "")
    was = f" (was {change['was']}: {change['healed']})" if change["healed"] else ""
    parts = [f"{where}  {change['verdict']}{was}", escaped(change["why"] or ""), change["fix"] or ""]
    return "  ".join(part for part in parts if part)


def _scheduled(data: Mapping[str, Any]) -> str:
    """What has it run, as it is written down."""
    if not data["scheduled"]:
        return "nothing has health run here; type: llmctl health install"
    shown = []
    for one in data["scheduled"]:
        state = "" if one["active"] else "  (not active)"
        shown += [
            f"{one['service']}{state}",
            *one["where"],
            one["text"].rstrip(),
            *(f"note: {n}" for n in one["notes"]),
        ]
    return "\n".join(shown)


def _removed(data: Mapping[str, Any]) -> str:
    return "\n".join(f"removed {what}" for what in data["removed"]) or "nothing had health run here"


VIEWS: dict[str, View] = {
    "health": _health,
    "health install": _scheduled,
    "health show": _scheduled,
    "health uninstall": _removed,
}
