"""The keys of the gateway's clients: random, kept as hashes, each with what it may do; revoked at once.

`gateway/keys.json` in the state folder (0600). The key itself is shown once, when it is made.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.errors import Refused, StateError, UnknownName, UsageError, nearest
from llmctl.files import locked, read_json, stamp, write_json
from llmctl.gateway.limits import PERIODS, Allowed
from llmctl.gateway.typed import typed

NAME = "keys.json"
PREFIX = "llmctl-"
GLOB = re.compile(r"[a-z0-9._*?!\[\]-]{1,128}")
VERSION = 1


@dataclass(frozen=True)
class Caller:
    """One key. `sha256` is of the key, `made` and `revoked` are epoch seconds."""

    name: str
    sha256: str
    allowed: Allowed = Allowed()
    made: float = 0.0
    revoked: float | None = None

    def may(self, handle: str) -> bool:
        globs = self.allowed.handles
        return not globs or any(fnmatch.fnmatchcase(handle, glob) for glob in globs)


def read(home: Path) -> dict[str, Caller]:
    """All keys by their hash; StateError for a file that makes no sense."""
    file = _path(home)
    data = read_json(file, restore=False)  # a key that was revoked since must not come back
    if data is None:
        return {}
    try:
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']!r}")
        found = [typed(Caller, {**row, "allowed": _allowed(row["allowed"])}) for row in data["keys"]]
        return {one.sha256: one for one in found}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"{file} holds no keys: {error!r}", hint=f"ls -l {file}*") from None


def _allowed(row: Mapping[str, Any]) -> Allowed:
    found = typed(Allowed, row)
    for limit in (found.requests, found.tokens, found.parallel, found.quota):
        if limit is not None and limit < 1:
            raise ValueError(f"a limit of {limit}")
    if found.per not in PERIODS:
        raise ValueError(f"per = {found.per!r:.80}")
    return found


def add(home: Path, name: str, allowed: Allowed) -> str:
    """Make a key; the only time that it is seen. Refused where the name is taken."""
    paths.check_name(name, "key")
    for glob in allowed.handles:
        if not GLOB.fullmatch(glob):
            raise UsageError(f"{glob[:140]!r} is no handle, nor a pattern of some", hint="--handle 'fast-*'")
    with locked(_path(home).with_suffix(".lock")):
        known = read(home)
        if any(one.name == name and one.revoked is None for one in known.values()):
            raise Refused(f"there is a key {name} already", hint=f"llmctl gateway keys revoke {name}")
        key = PREFIX + secrets.token_urlsafe(32)
        made = Caller(name, digest(key), allowed, time.time())
        _write(home, [*known.values(), made])
    return key


def revoke(home: Path, name: str) -> Caller:
    """End a key; UnknownName where there is none."""
    with locked(_path(home).with_suffix(".lock")):
        known = read(home)
        found = next((one for one in known.values() if one.name == name and one.revoked is None), None)
        if found is None:
            names = [one.name for one in known.values() if one.revoked is None]
            close = nearest(name, names)
            hint = f"did you mean {close!r}?" if close else f"keys: {', '.join(names) or 'none'}"
            raise UnknownName(f"there is no key {name[:140]!r}", hint=hint)
        ended = replace(found, revoked=time.time())
        _write(home, [ended if one is found else one for one in known.values()])
    return ended


def digest(key: str | bytes) -> str:
    """A key is random, so that one round of a fast hash keeps it."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def _path(home: Path) -> Path:
    folder = home / "gateway"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / NAME


def _write(home: Path, keys: Iterable[Caller]) -> None:
    rows = [asdict(one) for one in keys]
    write_json(_path(home), {"version": VERSION, "keys": rows})


@dataclass
class Callers:
    """The keys as they are now: looked at again when their file has changed."""

    home: Path
    known: Mapping[str, Caller] = field(default_factory=dict)
    error: str = ""
    _stamp: tuple[int, int] | None = None

    def fresh(self) -> None:
        """Read what has changed; keys that cannot be read leave those that were known."""
        now = stamp(self.home / "gateway" / NAME)
        if now == self._stamp:
            return
        try:
            self.known, self.error = read(self.home), ""
        except StateError as error:
            self.error = error.message
        self._stamp = now

    def of(self, sent: Iterable[bytes]) -> Caller | None:
        """Whose key is among those that a request presents; a revoked one counts as found."""
        for key in sent if self.known else ():
            if found := self.known.get(digest(key)):
                return found
        return None


def shown(caller: Caller, used: int = 0) -> dict[str, Any]:
    """A row of `gateway keys list`; `used` are tokens of its day or month."""
    about = {"name": caller.name, "made": caller.made, "revoked": caller.revoked, "used": used}
    return {**about, **asdict(caller.allowed)}
