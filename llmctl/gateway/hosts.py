"""What the gateway was told of hosts beside the registry: where the configuration lies, and the keys of their slots."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "hosts.json"


def path(home: Path) -> Path:
    return home / "gateway" / NAME


def read(home: Path) -> Mapping[str, Any]:
    """{"config": folder or None, "keys": {host: key}}, as `handles sync` wrote it; empty where it did not yet."""
    with contextlib.suppress(OSError, ValueError):
        found: Mapping[str, Any] = json.loads(path(home).read_text(encoding="utf-8"))["data"]
        return found
    return {}
