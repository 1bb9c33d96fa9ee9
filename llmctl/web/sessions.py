"""Who is signed in: sessions in memory, opened by a key, and the token that every changing form must carry."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl import keys
from llmctl.errors import LlmctlError

ADMIN, CLIENT = "admin", "client"
LASTS = 8 * 3600.0
"""Seconds that a session lives, however much it is used."""
MOST = 200
_ID = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Visitor:
    """Whoever sent a request. `role` is ADMIN, CLIENT or "" (signed in as nobody), `new` that the cookie is not set."""

    id: str
    role: str
    token: str
    new: bool = False

    @property
    def admin(self) -> bool:
        return self.role == ADMIN

    def told(self, token: str) -> bool:
        """Whether `token` is the one that pages of this visitor carry; takes the same time whichever is wrong."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


@dataclass(frozen=True)
class _Open:
    role: str
    key: bytes  # the hash of the key that opened it
    ends: float


class Sessions:
    """The sessions of one server; they end with it, with time, and when the key that opened them is replaced."""

    def __init__(self, home: Path, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.cookie = f"llmctl_{port}"  # a browser sends cookies to every port of a name
        self._home, self._clock = home, clock
        self._secret = secrets.token_bytes(32)
        self._open: dict[bytes, _Open] = {}

    def visitor(self, scope: Mapping[str, Any]) -> Visitor:
        """Who a request is from, by its cookie."""
        id = cookies(scope).get(self.cookie, "")
        if not _ID.fullmatch(id):
            return self._visitor(secrets.token_urlsafe(32), "", new=True)
        found = self._open.get(_hash(id))
        return self._visitor(id, found.role if found and self._holds(found) else "")

    def open(self, role: str) -> Visitor:
        """A new session with a new id, so that nobody can know it from before."""
        now = self._clock()
        self._open = {id: one for id, one in self._open.items() if one.ends > now}
        while len(self._open) >= MOST:
            del self._open[next(iter(self._open))]
        id = secrets.token_urlsafe(32)
        self._open[_hash(id)] = _Open(role, _hash(self._key(role) or ""), now + LASTS)
        return self._visitor(id, role, new=True)

    def close(self, visitor: Visitor) -> None:
        self._open.pop(_hash(visitor.id), None)

    def header(self, visitor: Visitor) -> tuple[bytes, bytes]:
        """What sets the cookie. Not `Secure`: on loopback there is no TLS."""
        return b"set-cookie", f"{self.cookie}={visitor.id}; Path=/; HttpOnly; SameSite=Strict".encode()

    def _visitor(self, id: str, role: str, new: bool = False) -> Visitor:
        token = hmac.new(self._secret, f"{id} {role}".encode(), hashlib.sha256).hexdigest()
        return Visitor(id, role, token, new)

    def _holds(self, found: _Open) -> bool:
        key = self._key(found.role)
        return found.ends > self._clock() and key is not None and hmac.compare_digest(_hash(key), found.key)

    def _key(self, role: str) -> str | None:
        try:
            known = keys.read(self._home)
        except (LlmctlError, OSError):
            return None
        return None if known is None else known.admin if role == ADMIN else known.client


def cookies(scope: Mapping[str, Any]) -> dict[str, str]:
    """The cookies of a request."""
    said = "; ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie")
    pairs = (part.strip().partition("=") for part in said.split(";"))
    return {name: value for name, equals, value in pairs if equals}


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
