"""What `llmctl handles` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmctl.render.text import Table, View, counted, escaped, plain_table

FACTS = ("technique", "tier", "intent", "context", "max_output", "group", "tags", "keep_alive", "notes")


def problems(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """What does not agree, each with what to type."""
    lines = []
    for one in found:
        lines.append(f"{escaped(one['where'])}: {escaped(one['what'])}")
        if one["hint"]:
            lines.append(f"    {one['hint']}")
    return lines


def kept(data: Mapping[str, Any]) -> list[str]:
    """The slots of hosts that could not be asked."""
    return [f"as it was before, for their hosts say nothing: {', '.join(data['kept'])}"] if data["kept"] else []


def _list(data: Mapping[str, Any]) -> str:
    if not data["handles"]:
        first = 'no handles; a slot of a profile has one with: handle = "NAME"'
        return "\n".join([first, *kept(data), *problems(data["problems"])])
    rows = [
        (
            one["name"] + (" *" if one["name"] == data["default"] else ""),
            ", ".join(dict.fromkeys(replica["model"] for replica in one["replicas"])),
            ", ".join(f"{replica['host']}:{replica['port']}" for replica in one["replicas"]),
            "yes" if any(replica["on_demand"] for replica in one["replicas"]) else "-",
            ", ".join(one["fallbacks"]) or "-",
        )
        for one in data["handles"]
    ]
    table = plain_table(Table(("HANDLE", "MODEL", "SLOTS", "ON DEMAND", "FALLBACKS"), rows))
    return "\n".join([table, *kept(data), *problems(data["problems"])])


def _show(data: Mapping[str, Any]) -> str:
    one = data["handle"]
    lines = [one["name"]]
    for replica in one["replicas"]:
        way = replica["address"] or f"over the ssh of {replica['host']}"
        words = [f"{replica['host']}:{replica['port']}", replica["model"], replica["engine"] or "auto", way]
        words += ["on demand"] if replica["on_demand"] else []
        words += [f"profile {replica['profile']}"] if replica["profile"] else []
        lines.append("  " + " · ".join(words))
    facts = {key: one[key] for key in FACTS if one[key] not in (None, [], ())}
    if any(one["price"]):
        prompt, completion = one["price"]
        facts["price"] = f"{prompt:g} for a million tokens of prompts, {completion:g} of answers"
    lines += [f"  {key}: {_said(value)}" for key, value in facts.items()]
    if len(data["chain"]) > 1:
        lines.append(f"  then: {' → '.join(data['chain'][1:])}")
    return "\n".join([*lines, *kept(data)])


def _said(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else escaped(str(value))


def _sync(data: Mapping[str, Any]) -> str:
    first = f"{counted(len(data['handles']), 'handle')}, registry {data['hash']}"
    return "\n".join([first, *kept(data), *problems(data["problems"])])


def _export(data: Mapping[str, Any]) -> str:
    return "\n".join([*(f"wrote {path}" for path in data["files"]), *kept(data), *problems(data["problems"])])


def _import(data: Mapping[str, Any]) -> str:
    lines = problems(data["problems"])
    lines += [f"{one['handle']}: a handle of {one['where']}, in {one['path']}" for one in data["added"]]
    lines += [f"{one['handle']}: kept apart, {one['why']}" for one in data["apart"]]
    for path, text in data["texts"].items():
        lines += [f"would write {path}:", text.rstrip("\n")]
    lines += [f"wrote {path}" for path in data["written"]]
    if data["copy"]:
        lines.append(f"the file itself is kept as {data['copy']}")
    return "\n".join(lines) or "nothing to do"


def _check(data: Mapping[str, Any]) -> str:
    lines = [*(f"wrote {path}" for path in data["files"]), *kept(data), *problems(data["problems"])]
    if not data["problems"]:
        lines.append(f"{counted(len(data['handles']), 'handle')}, nothing is wrong")
    lines += [f"not asked: {what}" for what in data["not_asked"]]
    return "\n".join(lines)


VIEWS: dict[str, View] = {
    "handles list": _list,
    "handles show": _show,
    "handles sync": _sync,
    "handles export": _export,
    "handles import": _import,
    "handles check": _check,
}
