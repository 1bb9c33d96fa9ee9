"""What `llmctl profile` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.fleet import steps
from llmctl.render.slots import changed
from llmctl.render.text import Table, View

KEYS = (
    "port", "model", "host", "engine", "quantization", "context", "parallel", "handle", "idle_unload", "order",
    "draft", "adapters", "cache_bits", "cache_bytes", "spread",
)  # fmt: skip


def _profiles(data: Mapping[str, Any]) -> str | Table:
    if not data["profiles"]:
        return "no profiles; llmctl init writes a first one"
    rows = [
        (p["name"], ", ".join(f"{s['port']} {s['model']}" for s in p["slots"]), p["description"])
        for p in data["profiles"]
    ]
    return Table(("PROFILE", "SLOTS", "DESCRIPTION"), rows)


def _profile(data: Mapping[str, Any]) -> Table:
    used = [key for key in KEYS if any(slot[key] not in (None, "auto", [], ()) for slot in data["slots"])]
    rows = [[_cell(slot[key]) for key in used] for slot in data["slots"]]
    return Table([key.upper() for key in used], rows)


def _cell(value: Any) -> str:
    return ", ".join(value) or "-" if isinstance(value, list | tuple) else str("-" if value is None else value)


def _steps(data: Mapping[str, Any]) -> str | Table:
    if "steps" not in data:
        return "\n".join(map(changed, data["slots"])) or "nothing to do"
    if not data["steps"]:
        return "nothing to do"
    return steps(data)


VIEWS: dict[str, View] = {
    "profile list": _profiles,
    "profile show": _profile,
    **dict.fromkeys(("profile diff", "profile load", "profile unload"), _steps),
    "profile save": lambda data: f"{data['text']}→ {data['path']}",
}
