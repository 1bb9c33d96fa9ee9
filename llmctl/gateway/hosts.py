"""What the gateway was told of hosts beside the registry: where the configuration lies, and the keys of their slots."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import StateError
from llmctl.files import read_json

NAME = "hosts.json"


def path(home: Path) -> Path:
    return home / "gateway" / NAME


def read(home: Path) -> Mapping[str, Any]:
    """{"config": folder or None, "keys": {host: key}}, as `handles sync` wrote it; empty where it did not yet, or where
    somebody else made it nonsense."""
    with contextlib.suppress(StateError):
        found = read_json(path(home), restore=False)
        if isinstance(found, dict) and isinstance(found.get("keys"), dict):
            return found
    return {}
