"""How long a model that was loaded on demand stays after its last request: as that said, kept in a small file so that
it outlives the gateway's process."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError, RequestError
from llmctl.files import read_json, write_json
from llmctl.gateway.asked import Asked

FOREVER = math.inf
NAME = "keep_alive.json"
HEADER = b"x-llmctl-keep-alive"
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE = re.compile(rf"[-+]?(?:{_PART.pattern})+")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def wished(path: str, header: bytes | None, asked: Asked | None) -> float | None:
    """What a request says in its header, or on Ollama's routes in its body: slots know the field on no other."""
    if header is not None:
        return seconds(header.decode("latin-1"))
    fields = asked.fields if asked and path.startswith("/api/") else None
    return seconds((fields or {}).get("keep_alive"))


def seconds(value: Any) -> float | None:
    """Seconds from `keep_alive` as Ollama takes it: a number of them, or a duration like "5m" or "1h30m". Less than 0
    is FOREVER, None is not said; RequestError 400 for anything else."""
    if value is None:
        return None
    found = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = FOREVER if value < 0 or value > 1e18 else float(value)
    elif isinstance(value, str) and len(value) < 40:
        found = _duration(value.strip())
    if math.isnan(found):
        raise RequestError(
            "keep_alive must be a number of seconds or a duration",
            param="keep_alive", hint='300, "5m", 0 (unload at once) or -1 (stay)',
        )  # fmt: skip
    return FOREVER if found < 0 else found


def _duration(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _WHOLE.fullmatch(text):
        return math.nan
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return -total if text.startswith("-") and total else total


class Stays:
    """What the last request of each slot said, by HOST:PORT; of one that said nothing there is nothing."""

    def __init__(self, home: Path) -> None:
        self._file = home / "gateway" / NAME
        self._said = _read(self._file)
        self._changed = False

    def said(self, where: str, keep: float | None) -> None:
        """A request to that slot has ended, and said so."""
        before = self._said.get(where)
        if keep is None:
            self._said.pop(where, None)
        else:
            self._said[where] = keep
        self._changed |= keep != before

    def of(self, where: str, usual: float | None) -> float | None:
        """Seconds that its model stays; None and FOREVER: until somebody needs its room."""
        return self._said.get(where, usual)

    def save(self) -> None:
        """Write it down, where it has changed; what cannot be written now is at the next time."""
        if self._changed:
            rows = {where: None if keep == FOREVER else keep for where, keep in self._said.items()}
            with contextlib.suppress(OSError):  # a full disk
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_json(self._file, rows)
                self._changed = False


def _read(file: Path) -> dict[str, float]:
    """A file that makes no sense is as none: then the handles' own times hold."""
    try:
        found = read_json(file)
        return {str(where): FOREVER if keep is None else float(keep) for where, keep in (found or {}).items()}
    except (LlmctlError, AttributeError, TypeError, ValueError):
        return {}
