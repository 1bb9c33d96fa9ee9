"""What `llmctl native` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View, duration


def _built(data: Mapping[str, Any]) -> str:
    if not data["made"]:
        return f"{data['path']} is there: nothing to do (--force makes it again)"
    return f"{data['path']}, in {duration(data['seconds'])}, by {data['compiler']}; engines that start now use it"


def _status(data: Mapping[str, Any]) -> str:
    return "\n".join(f"{one['host']}: {one['serves']}" if one.get("host") else one["serves"] for one in data["native"])


def _removed(data: Mapping[str, Any]) -> str:
    return f"removed {', '.join(data['removed'])}" if data["removed"] else "there was no native build"


VIEWS: dict[str, View] = {"native build": _built, "native status": _status, "native remove": _removed}
