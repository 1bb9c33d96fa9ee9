"""What `llmctl metrics textfile` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View, escaped


def _written(data: Mapping[str, Any]) -> str:
    silent = [
        f"{one['host']}: {escaped(one['why'].removeprefix(one['host'] + ': '))}"
        for one in data["answered"]
        if not one["up"]
    ]
    up = len(data["answered"]) - len(silent)
    return "\n".join([f"{data['series']} series of {up} of {len(data['answered'])} hosts in {data['path']}", *silent])


VIEWS: dict[str, View] = {"metrics textfile": _written}
