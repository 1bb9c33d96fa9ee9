"""Where llmctl keeps its state, and which names may become part of a path."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmctl.errors import UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def home() -> Path:
    """The state folder: `LLMCTL_HOME`, else ~/.llmctl. It may not exist yet."""
    return Path(os.environ.get("LLMCTL_HOME") or "~/.llmctl").expanduser().absolute()


def slot(home: Path, port: int) -> Path:
    """The folder of a slot."""
    return home / "slots" / str(port)


def slot_ports(home: Path) -> list[int]:
    """Ports that have a folder under `home`, ascending."""
    return sorted(int(path.name) for path in (home / "slots").glob("*") if path.name.isdigit())


def check_name(name: str, what: str) -> str:
    """`name` when it is safe as a file name and as an argument, else UsageError. `what` is "model", "profile", …"""
    if len(name) > 128 or not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{name[:140]!r} is not a {what} name",
            hint="names are lower-case letters, digits, '.', '_' and '-', start with a letter or digit, "
            "have no '..' and at most 128 characters",
        )
    return name
