"""The socket between the CLI and a slot server: one JSON line asks, event lines follow, one line answers.

→ {"verb": "swap", "args": {...}, "owner": "who asks"}
← {"event": "stage", ...}*
← {"ok": true, "data": ...} | {"ok": false, "error": {...}}
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError, Unreachable, from_dict

Event = dict[str, Any]
NAME = "control.sock"
LONGEST_ADDRESS = 100  # sun_path holds 104 bytes on macOS, 108 on Linux


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """A usable socket address for `path`, however long the path is (through the folder's descriptor on Linux)."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def call(
    path: Path,
    verb: str,
    args: dict[str, Any] | None = None,
    *,
    on_event: Callable[[Event], None] | None = None,
    timeout: float | None = None,
) -> Any:
    """Ask the slot server behind `path`; its answer's data. Raises the server's own error, or Unreachable.

    `timeout` bounds each silence, in seconds; None waits as long as the server lives.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            with address(path) as where:
                sock.connect(where)
            sock.sendall(json.dumps({"verb": verb, "args": args or {}, "owner": who()}).encode() + b"\n")
            for line in sock.makefile("rb"):
                answer = json.loads(line)
                if "ok" not in answer:
                    if on_event:
                        on_event(answer)
                elif answer["ok"]:
                    return answer["data"]
                else:
                    raise from_dict(answer["error"])
        except (OSError, ValueError) as error:
            if isinstance(error, LlmctlError):
                raise
            raise Unreachable(f"the slot server does not answer on {path}: {error}") from error
    raise Unreachable(f"the slot server closed {path} without an answer; it may have been killed")


def who() -> str:
    """Names the asker, for the loser of a race."""
    try:
        user = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid {os.getuid()}"
    return f"{user} (pid {os.getpid()})"
