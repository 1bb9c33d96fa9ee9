"""What `llmctl registry` shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View


def _findings(data: Mapping[str, Any]) -> list[str]:
    name = data["file"] or "export"
    lines = []
    for finding in data["findings"]:
        lines.append(f"{name}:{finding['line']}: {finding['where'] or '/'}: {finding['message']}")
        if finding["hint"]:
            lines += [f"    {line}" for line in finding["hint"].splitlines()]
    return lines


def _check(data: Mapping[str, Any]) -> str:
    return "\n".join(_findings(data)) or "nothing is wrong"


def _import(data: Mapping[str, Any]) -> str:
    lines = _findings(data)
    for path, text in data.get("texts", {}).items():
        lines += [f"would write {path}:", text]
    if "texts" not in data and data["changed"]:
        lines += [f"wrote {path}" for path in data["written"]]
        lines += [f"port {port}: last known good is {model}" for port, model in data["last_known_good"].items()]
        lines += [f"port {port}: {why}" for port, why in data["as_it_was"].items()]
        lines.append(f"the file itself is kept as {data['copy']}")
    elif not data["written"] and not any(finding["refused"] for finding in data["findings"]):
        lines.append("nothing to do")
    return "\n".join(lines)


def _export(data: Mapping[str, Any]) -> str:
    if data["path"] is None:
        return json.dumps(data["registry"], indent=2, ensure_ascii=False)
    return "\n".join([f"wrote {data['path']}", *(f"left out: {line}" for line in data["left_out"])])


VIEWS: dict[str, View] = {
    "registry import": _import,
    "registry export": _export,
    "registry check": _check,
}
