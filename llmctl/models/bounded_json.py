"""JSON of untrusted files: how much work its text makes is known before it is parsed."""

from __future__ import annotations

import json
from typing import Any

VALUES = 600_000
"""In one text; Python takes some half a second and 100 MB for them. The largest real ones have about half as many."""


def loads(data: bytes) -> Any:
    """The value in `data`; ValueError also for what is nested too deep, or has more than VALUES values."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > VALUES:
        raise ValueError(f"more than {VALUES} values")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
