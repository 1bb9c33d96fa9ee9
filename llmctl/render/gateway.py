"""What `llmctl gateway` shows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmctl.render import gateway_litellm
from llmctl.render.handles import kept, problems
from llmctl.render.text import Table, View, counted, duration, escaped, plain_table

LIMITS = {"requests": "requests a minute", "tokens": "tokens a minute", "parallel": "at once"}


def _up(data: Mapping[str, Any]) -> str:
    state = "started" if data["started"] else "runs already, and takes the handles up"
    bind = f"[{data['bind']}]" if ":" in data["bind"] else data["bind"]
    first = f"http://{bind}:{data['port']}  gateway  {state} · {counted(len(data['handles']), 'handle')}"
    return "\n".join([first, *kept(data), *problems(data["problems"])])


def _status(data: Mapping[str, Any]) -> str:
    head = [f"port {data['port']}", data["model"], data["state"], f"up {duration(max(0, time.time() - data['since']))}"]
    head += [counted(len(data["handles"]), "handle"), f"registry {data['registry'] or '-'}", f"{data['active']} active"]
    lines = [" · ".join(head)]
    lines += [escaped(data["why"])] if data["why"] else []
    if data["replicas"]:
        rows = [_replica(one) for one in data["replicas"]]
        lines.append(
            plain_table(Table(("SLOT", "MODEL", "STANDS", "ACTIVE", "TOKENS", "WHY"), rows, ("ACTIVE", "TOKENS")))
        )
    lines += [
        f"{one['where']} loads {one['model']}: {one['stage'] or 'begun'}, {counted(one['waiting'], 'request')} wait"
        for one in data["loads"]
    ]
    return "\n".join([*lines, *data.get("notes", ())])


def _replica(one: Mapping[str, Any]) -> tuple[str, ...]:
    warm = one["warm"] and not one["resting"]
    stands = "warm" if warm else "on demand" if one["on_demand"] else "rests" if one["resting"] else "comes"
    why = escaped(one["why"]) if one["why"] and stands == "rests" else ""
    return one["where"], one["model"], stands, str(one["requests"]), str(one["tokens"]), why


def _keys(data: Mapping[str, Any]) -> str | Table:
    if "key" in data:
        return f"{data['name']}: {data['key']}\nit is shown this once; {_limits(data)}"
    if "revoked" in data:
        return f"{data['revoked']['name']}: revoked"
    if not data["keys"]:
        return "no keys; llmctl gateway keys add NAME makes one"
    rows = [(one["name"], _day(one["made"]), _day(one["revoked"]), f"{one['used']:,}", _limits(one))
            for one in data["keys"]]  # fmt: skip
    return Table(("KEY", "MADE", "REVOKED", "TOKENS", "MAY"), rows, ("TOKENS",))


def _day(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds)) if seconds else "-"


def _limits(one: Mapping[str, Any]) -> str:
    said = [f"{one[key]} {words}" for key, words in LIMITS.items() if one[key]]
    said += [f"{one['quota']} tokens a {one['per']}"] if one["quota"] else []
    return ", ".join([f"handles {' '.join(one['handles'])}" if one["handles"] else "all handles", *said])


VIEWS: dict[str, View] = {
    "gateway up": _up,
    "gateway down": lambda data: f"port {data['port']}: the gateway is down",
    "gateway status": _status,
    "gateway keys": _keys,
    **gateway_litellm.VIEWS,
}
