"""Host keys that are trusted: known_hosts files read, a key judged by them, llmctl's own file written."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmctl import files
from llmctl.errors import KeyChanged, KeyUnknown, LlmctlError
from llmctl.fleet.ssh.settings import Login

FILE = "known_hosts"


@dataclass(frozen=True)
class Key:
    """A public key: its type (ssh-ed25519, …) and its bytes as ssh sends them."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l shows it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class Trusted:
    """What the files say of one server: the keys that it may show, and those that nobody may."""

    keys: tuple[Key, ...] = ()
    revoked: tuple[Key, ...] = ()


def trusted(name: str, own: Path, others: Iterable[Path]) -> Trusted:
    """The keys of a server; an entry in llmctl's `own` file replaces those in the `others`."""
    ours, theirs = list(_entries(name, own)), [entry for path in others for entry in _entries(name, path)]
    revoked = tuple(key for marker, key in (*ours, *theirs) if marker == "@revoked")
    keys = [key for marker, key in ours if not marker] or [key for marker, key in theirs if not marker]
    return Trusted(tuple(key for key in keys if key not in revoked), revoked)


def judge(login: Login, shown: Key, known: Trusted) -> LlmctlError | None:
    """None when the key that a server shows is trusted, else why not."""
    if shown in known.keys:
        return None
    host = login.name
    hint = f"llmctl hosts trust {login.of}"
    details = {"type": shown.type, "fingerprint": shown.fingerprint, "known_as": login.known_as}
    if not known.keys and shown not in known.revoked:
        message = f"the host key of {host} is not known: {shown.type} {shown.fingerprint}"
        return KeyUnknown(message, hint=hint, host=host, details=details)
    before = [key.fingerprint for key in known.keys]
    was = "it is marked as revoked" if shown in known.revoked else f"trusted is {', '.join(before)}"
    message = f"the host key of {host} is not the trusted one: it shows {shown.type} {shown.fingerprint}, {was}"
    return KeyChanged(message, hint=hint, host=host, details={**details, "trusted": before})


def write(own: Path, name: str, key: Key) -> None:
    """Trust this key of a server, and no other, in llmctl's own file; the other entries stay."""
    with files.locked(own.with_name(f"{own.name}.lock")):
        lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
        kept = [rest for line in lines if (rest := _without(name, line)) is not None]
        entry = f"{name} {key.type} {base64.b64encode(key.blob).decode()}"
        files.write_text(own, "\n".join([*kept, entry]) + "\n", files.private)


def _without(name: str, line: str) -> str | None:
    """A line without this server; None when it names no other."""
    parsed = _parsed(line)
    if not parsed or parsed[0] or not _matches(name, parsed[1]):
        return line
    others = [] if _hashed(name, parsed[1]) else [other for other in parsed[1].split(",") if other.lower() != name]
    return " ".join([",".join(others), *line.split()[1:]]) if others else None


def _entries(name: str, path: Path) -> Iterator[tuple[str, Key]]:
    """Marker and key of the lines of a file that name this server."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        parsed = _parsed(line)
        if parsed and _matches(name, parsed[1]):
            marker, _, kind, encoded = parsed
            try:
                yield marker, Key(kind, base64.b64decode(encoded, validate=True))
            except binascii.Error:
                continue


def _parsed(line: str) -> tuple[str, str, str, str] | None:
    """Marker, names, type and key of a line."""
    words = line.split()
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    return (marker, words[0], words[1], words[2]) if len(words) >= 3 and not words[0].startswith("#") else None


def _matches(name: str, patterns: str) -> bool:
    if _hashed(name, patterns):
        return True
    found = False
    for pattern in patterns.lower().split(","):
        if pattern.startswith("!"):
            if _like(name, pattern[1:]):
                return False
        else:
            found = found or _like(name, pattern)
    return found


def _like(name: str, pattern: str) -> bool:
    """`*` and `?` are wild, brackets are not: they stand around an address with a port."""
    return fnmatch.fnmatchcase(name.lower(), pattern.replace("[", "[[]"))


def _hashed(name: str, text: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in text.removeprefix("|1|").split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
