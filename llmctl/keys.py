"""The keys of this host's slots: `keys.json` in the state folder, 0600, made at first use.

The client key opens inference; the admin key opens that and the routes that change something.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llmctl import paths
from llmctl.errors import StateError


@dataclass(frozen=True)
class Keys:
    """The keys as they stood in `path` at `stamp`; neither appears in a repr."""

    admin: str = field(repr=False)
    client: str = field(repr=False)
    path: Path | None = None
    stamp: tuple[int, int] = (0, 0)

    def fresh(self) -> Keys:
        """The keys as they are now: a rotation ends the old ones at once. A file that went missing changes nothing."""
        if self.path is None:
            return self
        with contextlib.suppress(OSError, StateError):
            if _stamp(self.path) != self.stamp:
                return _parse(self.path)
        return self


def read(home: Path) -> Keys | None:
    """The keys of the state folder `home`; None when none were made yet, StateError when the file is damaged."""
    path = home / "keys.json"
    return _parse(path) if path.exists() else None


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or an address of this machine only: a slot there may go without a key."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def current() -> str | None:
    """The client key of this host, for a client on it."""
    keys = read(paths.home())
    return keys.client if keys else None


def show(home: Path) -> dict[str, str]:
    """Both keys, made at first use; of two who make them at once, the first one's stand."""
    path = home / "keys.json"
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            _write(path, os.link)
    keys = _parse(path)
    return {"client": keys.client, "admin": keys.admin}


def rotate(home: Path) -> dict[str, str]:
    """New keys in place of the old."""
    _write(home / "keys.json", os.replace)
    return show(home)


def _parse(path: Path) -> Keys:
    stamp = _stamp(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        admin, client = found["admin"], found["client"]
        if not all(isinstance(key, str) and key for key in (admin, client)) or admin == client:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise StateError(f"{path} does not hold two keys", hint="make new ones: llmctl keys rotate") from None
    return Keys(admin, client, path, stamp)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _write(path: Path, place: Callable[[Path, Path], None]) -> None:
    """New keys, whole or not at all: temp file, fsync, then `place(temp, path)`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temp = path.with_name(f".keys.{secrets.token_hex(4)}.tmp")
    made = {"admin": f"lm-admin-{secrets.token_urlsafe(32)}", "client": f"lm-{secrets.token_urlsafe(32)}"}
    try:
        with os.fdopen(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(made, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        place(temp, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    finally:
        temp.unlink(missing_ok=True)
