"""What happened on a host: a line of JSON each in one file of its state folder, for whoever keeps the fleet's history.

    {"id", "at": epoch seconds, "kind": of KINDS, "port", "model", "outcome": "ok" | "failed" | "", "what", "details"}

Many processes append at once, and none waits: a line is one write. At LARGEST bytes the file becomes `events.1.jsonl`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError
from llmctl.files import append, locked

KINDS = (
    "load", "swap", "unload", "restart", "crash", "crash-loop", "sleep", "wake", "disable", "enable", "adopt",
    "deploy", "rollback", "remove", "incident", "recovered", "heal", "notify", "bench", "quality",
)  # fmt: skip
NAME, OLDER = "events.jsonl", "events.1.jsonl"
LARGEST = 4 * 2**20
LONGEST = 1000
"""Characters of `what`, and of each detail: a failed engine's last words stay in its log."""
OK, FAILED = "ok", "failed"


def note(
    home: Path,
    kind: str,
    *,
    port: int | None = None,
    model: str | None = None,
    outcome: str = "",
    what: str = "",
    **details: Any,
) -> bool:
    """Append an event; False when that could not be written (a full disk), which never stops who notes it."""
    event = {
        "id": secrets.token_hex(8), "at": round(time.time(), 3), "kind": kind, "port": port, "model": model,
        "outcome": outcome, "what": _short(what), "details": {key: _short(said) for key, said in details.items()},
    }  # fmt: skip
    try:
        line = json.dumps(event).encode()
        written = append(home / NAME, line)
        if written.st_ino != _inode(home / NAME):
            append(home / NAME, line)  # it went into a file that was being put aside, maybe behind a reader's back
        elif written.st_size > LARGEST:
            _rotate(home)
    except (OSError, TypeError, ValueError):
        return False
    return True


def since(home: Path, cursor: str, most: int = 2000) -> tuple[list[dict[str, Any]], str]:
    """The next events after `cursor` ("": from the oldest that there are), and the cursor after them; at most `most`.

    One that was written amid a rotation may come twice, with the same id.
    """
    asked, _, offset = cursor.partition(":")
    found: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        marked = {_mark(file): file for file in _opened(home, stack)}
        marked.pop("", None)
        if asked in marked:
            marked[asked].seek(int(offset) if offset.isascii() and offset.isdigit() else 0)
        known = list(marked)
        for mark in known[known.index(asked) if asked in marked else 0 :]:
            cursor = f"{mark}:{_read(marked[mark], found, most)}"
            if len(found) == most:
                break
    return found, cursor


def _opened(home: Path, stack: contextlib.ExitStack) -> list[BufferedReader]:
    """The files, the older first. It is opened last: what is put aside meanwhile is then seen twice, and not missed."""
    files: list[BufferedReader] = []
    for name in (NAME, OLDER):
        with contextlib.suppress(OSError):
            files.append(stack.enter_context(BufferedReader(FileIO(home / name))))
    return files[::-1]


def _mark(file: BufferedReader) -> str:
    """What tells this file from others, also where another's inode is used again: its first line; "" without one."""
    line = file.readline()
    file.seek(0)
    return hashlib.sha256(line).hexdigest()[:16] if line.endswith(b"\n") else ""


def _read(file: BufferedReader, found: list[dict[str, Any]], most: int) -> int:
    """Add the events of its whole lines up to `most`; where the next one begins."""
    at = file.tell()
    while len(found) < most and (line := file.readline()).endswith(b"\n"):
        at += len(line)
        if event := _event(line):
            found.append(event)
    return at


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = isinstance(found, dict) and isinstance(found.get("id"), str) and isinstance(found.get("kind"), str)
    return found if good and isinstance(found.get("at"), int | float) else None


def _rotate(home: Path) -> None:
    try:
        with locked(home / "events.lock", wait=False):
            if (home / NAME).stat().st_size > LARGEST:
                os.replace(home / NAME, home / OLDER)
    except (OSError, LlmctlError):
        return  # somebody else does it now, or the next event will


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _short(said: Any) -> Any:
    return said[:LONGEST] if isinstance(said, str) else said
