"""What the verbs of `llmctl.cli.fleet` show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.slots import changed, unloads
from llmctl.render.text import Table, View, plain_table


def steps(data: Mapping[str, Any]) -> Table:
    """What is to be done on which host."""
    rows = []
    for step in data["steps"]:
        differs = [*step["differs"], *([step["problem"]] if step.get("problem") else [])]
        differs += map(unloads, step.get("evicts") or ())
        row = (step["host"], str(step["port"]), step["action"], step["model"] or "-", step["current"] or "-")
        rows.append((*row, ", ".join(differs)))
    return Table(("HOST", "PORT", "ACTION", "MODEL", "NOW", "DIFFERS"), rows, right=("PORT",))


def _plan(data: Mapping[str, Any]) -> str:
    shown = plain_table(steps(data)) if data["steps"] else "nothing to do"
    return "\n".join([shown, *data["notes"]])


def _apply(data: Mapping[str, Any]) -> str:
    if any("problem" in step for step in data["steps"]) or not data["steps"]:
        return _plan(data)
    lines = [changed(step["result"]) for step in data["steps"] if step["result"]]
    return "\n".join([*lines, *data["notes"]]) or "nothing was done"


VIEWS: dict[str, View] = {"plan": _plan, "apply": _apply}
