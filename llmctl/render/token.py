"""What `llmctl hosts token` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View


def _told(row: Mapping[str, Any]) -> str:
    if row["stored"]:
        return f"{row['host']}  has the token"
    return f"{row['host']}  {'the token is gone' if row['removed'] else 'had no token'}"


VIEWS: dict[str, View] = {"hosts token": lambda data: "\n".join(map(_told, data["tokens"]))}
