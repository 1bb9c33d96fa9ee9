"""What `llmctl convert` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render import quality
from llmctl.render.text import View, duration, size


def _converted(data: Mapping[str, Any]) -> str:
    if "conversion" in data:
        return _planned(data["conversion"])
    if not data["made"]:
        return f"{data['path']} is there and unchanged: nothing to do (--force makes it again)"
    lines = [
        f"{data['model']}: {data['format']} {data['quantization']}, {size(data['bytes'])} of "
        f"{size(data['from']['bytes'])}, in {duration(data['seconds'])}, at most {size(data['peak_bytes'])} of memory",
        f"  {data['path']}",
    ]
    if data["quality"]:
        lines += [f"  {line}" for line in quality.lines(data["quality"])]
    return "\n".join(lines)


def _planned(plan: Mapping[str, Any]) -> str:
    return (
        f"would convert {plan['from']} to {plan['to']} {plan['quantization']}: {plan['path']}, about "
        f"{size(plan['bytes'])}; takes {size(plan['needed_bytes'])} of disk, {size(plan['free_bytes'])} are free"
    )


VIEWS: dict[str, View] = {"convert": _converted}
