"""What the verbs of `llmctl.cli.smoke` show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import Table, View, duration, escaped


def _smoke(data: Mapping[str, Any]) -> str | Table:
    if not data["rows"]:
        return "no slot should be up; start one with: llmctl load 8101 MODEL"
    rows = [
        (row["host"], str(row["port"]), row["check"], row["status"], duration(row["seconds"]), escaped(row["why"]))
        for row in data["rows"]
    ]
    return Table(["HOST", "PORT", "CHECK", "STATUS", "TIME", "WHY"], rows, right=("PORT", "TIME"))


def _debugged(data: Mapping[str, Any]) -> str:
    return (
        f"{escaped(data['prompt'])}{escaped(data['text'])}\n"
        f"{data['host']}  {data['model']} · {data['engine']} on {data['backend']} · {data['tokens']} tokens, "
        f"{data['tokens_per_second']:.1f} tokens/s · ready in {duration(data['ready_seconds'])}"
    )


VIEWS: dict[str, View] = {"smoke": _smoke, "debug-inference": _debugged}
