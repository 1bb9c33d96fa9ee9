"""The audit log of a host: a JSON line per deploy, rollback or removal: who, when, from what to what, how it went."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl import events
from llmctl.files import append, sync


def note(home: Path, entry: Mapping[str, Any]) -> None:
    """Append a line; what the fleet's history keeps of it is an event too."""
    at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    append(home / "audit.log", json.dumps({"at": at, **entry}).encode())
    sync(home / "audit.log")
    if entry.get("what") in events.KINDS:
        said = {key: value for key, value in entry.items() if key not in ("what", "outcome")}
        good, ways = entry.get("outcome") == "ok", [entry[key] for key in ("from", "to") if entry.get(key)]
        what = " → ".join(ways) if good else str(entry.get("outcome"))
        events.note(home, str(entry["what"]), outcome=events.OK if good else events.FAILED, what=what, **said)


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
