"""What `llmctl wheelhouse` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View, size


def _filled(data: Mapping[str, Any]) -> str:
    files, new = data["files"], sum(file["new"] for file in data["files"])
    whole = size(sum(file["bytes"] for file in files))
    what = ", ".join(["the base", *data["engines"]])
    return (
        f"{data['folder']}: {len(files)} packages, {whole} ({new} new), for Python {data['python']} on "
        f"{data['platform']}: {what}\nllmctl deploy HOST --wheelhouse {data['folder']}"
    )


VIEWS: dict[str, View] = {"wheelhouse": _filled}
