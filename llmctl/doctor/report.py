"""A report to paste into an issue: what was found, without names of hosts, users, addresses and paths. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmctl.checks import public
from llmctl.doctor.rows import HERE, PASS, Row
from llmctl.fleet.facts import Facts

FENCE = re.compile(r"[`|\r\n]")
"""What would end a cell or a fence of Markdown."""


def secrets(words: Iterable[tuple[str | None, str]], hosts: Iterable[str]) -> dict[str, str]:
    """What must not be told, and what stands for it: hosts by number, other `words` by what they are."""
    found = {word: f"[{what}]" for word, what in words if word}
    return found | public.aliases(hosts)


def safe(rows: Sequence[Row], secret: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows as JSON that anybody may read."""
    masked = public.clean([shown(row) for row in rows], {})  # paths first: a name within one goes with it
    found: list[dict[str, Any]] = public.clean(masked, secret)
    return found


def shown(row: Row) -> dict[str, Any]:
    """The JSON of a row."""
    return {"host": row.host, "check": row.check, "status": row.status, "why": row.why, "fix": row.fix or None}


def markdown(rows: Sequence[Mapping[str, Any]], head: Mapping[str, str]) -> str:
    """Rows of `safe` as a table, the versions in `head` above it."""
    lines = ["### llmctl doctor", "", *(f"- {name}: {_cell(value)}" for name, value in head.items()), ""]
    found = [row for row in rows if row["status"] != PASS]
    passed = len(rows) - len(found)
    if found:
        lines += ["| where | check | status | why | fix |", "|---|---|---|---|---|"]
        lines += [
            f"| {' | '.join(_cell(row[key] or HERE) for key in ('host', 'check', 'status', 'why', 'fix'))} |"
            for row in found
        ]
        lines.append("")
    return "\n".join([*lines, f"{passed} checks passed."])


def machine(facts: Facts) -> str:
    """What a host is, in words that name nobody."""
    gpus = [f"{gpu.name} (driver {gpu.driver}, CUDA {gpu.cuda})" for gpu in facts.accelerators]
    counted = [f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus)]
    said = [facts.os_version, facts.arch, facts.libc, facts.chip, f"{facts.memory / 1e9:.0f} GB", *counted]
    return ", ".join(part for part in said if part)


def _cell(text: str) -> str:
    return FENCE.sub(" ", text)
