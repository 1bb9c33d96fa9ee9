"""What `adopt` found, and the slot in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View, escaped


def adopted(data: Mapping[str, Any]) -> str:
    """The server line by line, then what became of it."""
    server = data["server"]
    rows = {
        "server": f"{server['kind']}, port {server['port']}, serves {', '.join(server['serves']) or 'no name'}",
        "process": f"pid {server['pid']} of {server['user']}" if server["pid"] else "not to be seen from here",
        "command": server["command"],
        "folder": server["folder"],
        "variables": ", ".join(server["variables"]),
    }
    lines = [f"{name:10}{escaped(text)}" for name, text in rows.items() if text]
    where = f"{data['host']}:{data['port']}"
    if "plan" in data:
        does = "end the server, and start it again below a slot" if data["managed"] else "put a slot in front of it"
        return "\n".join([*lines, f"would {does}: {where}  {data['model']}", "", data["entry"].rstrip()])
    lines.append(f"{where}  {data['model']}  {data['state']} · {'managed' if data['managed'] else 'attached'}")
    if data["saved"]:
        lines.append(f"saved in {data['saved']}")
    return "\n".join(lines)


VIEWS: dict[str, View] = {"adopt": adopted}
