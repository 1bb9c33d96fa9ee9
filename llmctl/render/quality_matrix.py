"""What `llmctl quality` shows: prompts down, handles across, and below what went wrong."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.render.text import Table, View, duration, escaped, plain_table

Run = Mapping[str, Any]
WORD = {"pass": "ok", "fail": "no", "regressed": "WORSE", "fault": "FAULT"}
PLAIN = ("name", "messages", "fingerprint", "max_tokens", "temperature", "tries", "need", "must", "tools", "allow")


def _quality(data: Mapping[str, Any]) -> str | Table:
    if "prompts" in data:
        return _prompts(data["prompts"])
    runs = data["runs"]
    lines = [plain_table(matrix(runs)), ""]
    for run in runs:
        lines += [*told(run), ""]
    return "\n".join(lines[:-1])


def matrix(runs: Sequence[Run]) -> Table:
    """A row of each prompt."""
    names = list(dict.fromkeys(row["prompt"] for run in runs for row in run["rows"]))
    cells = [{row["prompt"]: _cell(row) for row in run["rows"]} for run in runs]
    rows = [[escaped(name), *(cell.get(name, "-") for cell in cells)] for name in names]
    return Table(["PROMPT", *(escaped(run["target"]) for run in runs)], rows)


def _cell(row: Mapping[str, Any]) -> str:
    hits = f" {row['hits']}/{row['tries']}" if row["tries"] > 1 else ""
    return WORD[row["status"]] + hits


def told(run: Run) -> list[str]:
    """One run in words: what passed, what it is held against, and why a prompt failed."""
    total = len(run["rows"])
    by = f" ({escaped(run['model'])})" if run["model"] and run["model"] != run["target"] else ""
    parts = [f"{escaped(run['target'])}{by} at {run['through']}: {len(run['passed'])} of {total} passed"]
    parts += [f"{len(run[key])} {word}" for key, word in SAID.items() if run[key]]
    times = f"first token {_seconds(run['first'])}, whole answer {_seconds(run['seconds'])} (medians)"
    rows = [
        f"  {WORD[row['status']]:6}{escaped(row['prompt'])}: {check}: {escaped(why)}"
        for row in run["rows"]
        for check, why in row["failed"].items()
    ]
    return [", ".join(parts), f"  {times}; {_held(run)}", *rows]


SAID = {"regressed": "worse than before", "faults": "that must never fail"}


def _held(run: Run) -> str:
    before = run["baseline"]
    if not run["kept"]:
        return "held against nothing, and not kept"
    if run["accepted"]:
        return "this run is the baseline from now on"
    if before is None:
        return "the first run: the baseline" if run["good"] else "no baseline yet"
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(before["at"]))
    return f"held against {at}, which had {_seconds(before.get('first'))} and {_seconds(before.get('seconds'))}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}s" if value < 10 else duration(value)


def _prompts(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            one["name"], f"{one['need']}/{one['tries']}", ", ".join(_wanted(one)),
            escaped(_asked(one)),
        )
        for one in found
    ]  # fmt: skip
    return Table(["PROMPT", "TRIES", "CHECKS", "ASKS"], rows, right=("TRIES",))


def _asked(prompt: Mapping[str, Any]) -> str:
    """The beginning of its last question."""
    asked = [str(message.get("content") or "") for message in prompt["messages"] if message["role"] == "user"]
    return asked[-1].strip().partition("\n")[0][:60] if asked else ""


def _wanted(prompt: Mapping[str, Any]) -> list[str]:
    """The checks besides those that all answers have."""
    return [
        key
        for key, value in prompt.items()
        if key not in PLAIN and (value not in (None, False, ()) or (key == "calls" and value is not None))
    ]


VIEWS: dict[str, View] = {"quality": _quality}
