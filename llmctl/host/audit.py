"""The audit log of a host: a JSON line per deploy, rollback or removal: who, when, from what to what, how it went."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.files import private


def note(home: Path, entry: Mapping[str, Any]) -> None:
    """Append a line, in one write; a line that a crash cut short stays alone."""
    at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    path = home / "audit.log"
    before = b"" if _ends_a_line(path) else b"\n"
    with open(path, "ab", buffering=0, opener=private) as file:
        file.write(before + json.dumps({"at": at, **entry}).encode() + b"\n")
        os.fsync(file.fileno())


def read(home: Path, most: int) -> list[dict[str, Any]]:
    """The last entries, the newest last; a line that cannot be read is left out."""
    entries = []
    try:
        lines = (home / "audit.log").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries[-most:]


def _ends_a_line(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except OSError:
        return True
