"""What the verbs of slots show."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmctl.domain import GATEWAY
from llmctl.render.text import Table, View, counted, duration, size


def status(data: Mapping[str, Any]) -> str | Table:
    """The slots of all hosts, and the hosts that could not say what they have."""
    silent = [host for host in data["hosts"] if host["state"] != "ok"]
    if not data["slots"] and not data["shares"] and not silent:
        return "no slots; start one with: llmctl load 8101 MODEL"
    rows: list[tuple[str, ...]] = []
    for slot in data["slots"]:
        speed, since = slot["tokens_per_second"], slot["since"]
        row = (
            slot["host"],
            str(slot["port"]),
            slot["model"] or "-",
            (slot["engine"] or "-") + "".join(f" + {name}" for name in slot["spread"][1:]),
            slot["state"],
            size(slot["memory_bytes"] or None),
            f"{speed:.1f}" if speed else "-",
            duration(max(0.0, time.time() - since)) if since else "-",
            handles(slot) or "-",
            slot["why"] or "",
        )
        rows.append(row)
    for share in data["shares"]:
        whose = f"computes with {share['slot']}"
        reserved = size(share["bytes"])
        rows.append((share["host"], "-", share["model"], share["engine"], "share", reserved, "-", "-", "-", whose))
    order = {host["host"]: place for place, host in enumerate(data["hosts"])}
    rows += [(host["host"], "-", "-", "-", host["state"], "-", "-", "-", "-", host["why"] or "") for host in silent]
    rows.sort(key=lambda row: order.get(row[0], len(order)))
    headers = ["HOST", "PORT", "MODEL", "ENGINE", "STATE", "MEMORY", "TOK/S", "UP", "HANDLE", "WHY"]
    shown = len(headers) if any(row[-1] for row in rows) else -1
    return Table(headers[:shown], [row[:shown] for row in rows], right=("PORT", "MEMORY", "TOK/S", "UP"))


def handles(slot: Mapping[str, Any]) -> str:
    """The names that a slot has; of a gateway how many, and what it has to do."""
    if slot["engine"] != GATEWAY:
        return ",".join(slot["handles"])
    parts = [counted(len(slot["handles"]), "handle"), f"{slot['active']} active"]
    if resting := [replica for replica in slot["replicas"] if replica["resting"] and not replica["on_demand"]]:
        parts.append(f"{len(resting)} of {counted(len(slot['replicas']), 'slot')} rest")
    return ", ".join(parts)


def behind(replica: Mapping[str, Any]) -> str:
    """How a gateway sees a slot."""
    if replica["resting"]:
        return f"rests: {replica['why']}"
    return "answers" if replica["warm"] else "on demand" if replica["on_demand"] else "not ready"


def changed(data: Mapping[str, Any]) -> str:
    """One line for load, swap, unload, restart, disable and enable."""
    where = f"{data['host']}:{data['port']}"
    parts = [f"{where}  {data['model'] or 'no model'}  {data['state']}"]
    if data["previous"] not in (None, data["model"]):
        parts.append(f"before: {data['previous']}")
    if data["engine"]:
        parts.append(data["engine"])
    if data["order"] != "none":
        parts.append(data["order"])
    if data["seconds"]:
        parts.append(f"in {duration(data['seconds'])}")
    if data["cut"]:
        parts.append(f"{data['cut']} requests cut at their time limit")
    if data.get("saved"):
        parts.append(f"saved in {data['saved']}")
    return " · ".join(parts)


def room(data: Mapping[str, Any]) -> list[str]:
    """What a dry run tells of memory, where it does."""
    if data.get("problem"):
        return [f"it would fail: {data['problem']}"]
    gone = data.get("evicts") or ()
    lines = [f"with --evict {unloads(one)}" for one in gone]
    measured, reserved = (size(sum(one[key] for one in gone)) for key in ("bytes", "reserved"))
    gives = f"that gives {measured} beside the {size(data['free_bytes'])} that are free, and {reserved} of the budget"
    return [*lines, f"{gives} beside {size(data['budget_bytes'])}"] if gone else []


def unloads(one: Mapping[str, Any]) -> str:
    """A slot that goes to make room."""
    held = f"has {size(one['bytes'])}, reserved {size(one['reserved'])}"
    return f"unloads {one['port']} {one['model']} ({held}, unused for {duration(one['unused'])})"


VIEWS: dict[str, View] = {
    "status": status,
    **dict.fromkeys(("load", "swap", "unload", "restart", "disable", "enable"), changed),
}
