"""Reads TOML tables by typed getters; a mistake is a ConfigError that names file, line, key and the right spelling."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import ConfigError, LlmctlError, UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Keys = tuple[str | int, ...]

_BYTES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


class Table:
    """One table of a TOML file, asked key by key. `only` must be told every key that may occur."""

    def __init__(self, path: Path, source: str, data: Mapping[str, Any], keys: Keys = ()) -> None:
        self.path, self.source, self.data, self.keys = path, source, data, keys

    def mistake(self, key: str | None, message: str, hint: str | None = None) -> ConfigError:
        """The error for `key` of this table (None: for the table itself)."""
        keys = self.keys if key is None else (*self.keys, key)
        where = ".".join(f"[{k}]" if isinstance(k, int) else k for k in keys).replace(".[", "[")
        return ConfigError(f"{self.path}:{self.line(key)}: {where}: {message}", hint=hint)

    def line(self, key: str | None) -> int:
        """The line of `key`, or of the nearest table around it that has a line of its own."""
        found = lines(self.source)
        keys = self.keys if key is None else (*self.keys, key)
        while keys and keys not in found:
            keys = keys[:-1]
        return found.get(keys, 1)

    def only(self, *known: str) -> None:
        for key in self.data:
            if key not in known:
                close = nearest(key, known)
                hint = f"did you mean {close!r}?" if close else f"known keys: {', '.join(sorted(known))}"
                raise self.mistake(key, "unknown key", hint)

    def _typed(self, key: str, kind: type | tuple[type, ...], what: str, default: Any) -> Any:
        value = self.data.get(key, default)
        if key in self.data and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise self.mistake(key, f"must be {what}, not {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> Any:
        return self._typed(key, str, "a text", default)

    def integer(self, key: str, default: int | None = None) -> Any:
        value = self._typed(key, int, "a whole number", default)
        if key in self.data and value < 1:
            raise self.mistake(key, f"must be 1 or more, not {value}")
        return value

    def number(self, key: str, default: float | None = None) -> Any:
        """A finite number, 0 or more."""
        value = self._typed(key, (int, float), "a number", default)
        if key in self.data and not 0 <= value < math.inf:
            raise self.mistake(key, f"must be 0 or more, not {value}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self._typed(key, bool, "true or false", default))

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._typed(key, list, "a list of texts", [])
        if not all(isinstance(item, str) for item in value):
            raise self.mistake(key, f"must be a list of texts, not {value!r}")
        return tuple(value)

    def one_of(self, key: str, known: Collection[str], default: str) -> str:
        value = self.text(key, default)
        if value not in known:
            close = nearest(value, known)
            raise self.mistake(key, f"{value!r} is not one of {', '.join(known)}", close and f"did you mean {close!r}?")
        return str(value)

    def size(self, key: str) -> int | None:
        """Bytes from 123 or "24GB" (10^9) or "24GiB" (2^30); None when absent."""
        value = self._typed(key, (int, str), 'a size like "24GB"', None)
        return None if value is None else round(self._scaled(key, str(value), _BYTES))

    def seconds(self, key: str) -> float | None:
        """Seconds from 90 or "15m"; None when absent."""
        value = self._typed(key, (int, float, str), 'a duration like "15m"', None)
        return None if value is None else self._scaled(key, str(value), _SECONDS)

    def _scaled(self, key: str, text: str, units: Mapping[str, int]) -> float:
        try:
            value = _scale(text, units)
        except UsageError as error:
            raise blame(self, key, error) from None
        if not value:
            raise self.mistake(key, "must be more than 0")
        return value

    def table(self, key: str) -> Table:
        return Table(self.path, self.source, self._typed(key, dict, "a table", {}), (*self.keys, key))

    def tables(self, key: str) -> Iterator[Table]:
        """The tables of the list `key` (`[[key]]` in the file)."""
        for i, item in enumerate(self._typed(key, list, f"a list of tables ([[{key}]])", [])):
            if not isinstance(item, dict):
                raise self.mistake(key, f"must be a list of tables ([[{key}]])")
            yield Table(self.path, self.source, item, (*self.keys, key, i))


def read(path: Path, source: str | None = None) -> Table:
    """The root table of a file, or of what `source` would make it; ConfigError when it is not to be read or no TOML."""
    try:
        source = path.read_text(encoding="utf-8") if source is None else source
        return Table(path, source, tomllib.loads(source))
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        what = str(error).split(" (at ")[0]
        raise ConfigError(f"{path}:{at[1] if at else 'end'}: not TOML: {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def seconds(text: str) -> float:
    """Seconds from a duration typed by a person: 90, 90s, 15m, 2h or 1d."""
    return _scale(text, _SECONDS)


def size(text: str) -> int:
    """Bytes from a size typed by a person: 123, 24GB (10^9) or 24GiB (2^30); UsageError for nothing."""
    if not (found := round(_scale(text, _BYTES))):
        raise UsageError(f"{text!r} must be more than 0")
    return found


def _scale(text: str, units: Mapping[str, int]) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not found or found[2].lower() not in units:
        raise UsageError(f"{text!r} is not a number with a unit of {', '.join(unit for unit in units if unit)}")
    return float(found[1]) * units[found[2].lower()]


def blame(table: Table, key: str, error: LlmctlError) -> ConfigError:
    """An error about a value, as the mistake of the file that holds it."""
    return table.mistake(key, error.message, error.hint)


def lines(text: str) -> dict[Keys, int]:
    """The line (from 1) of every table and key that begins a line. Keys within inline tables have none."""
    found: dict[Keys, int] = {}
    here: Keys = ()
    for number, line in enumerate(text.splitlines(), 1):
        start = line.strip()
        if start.startswith("["):
            here = _header(start, found) or here
            found.setdefault(here, number)
        elif key := _KEY.match(line):
            found.setdefault((*here, *_path(f"{key[1]} = 0")), number)
    return found


def _header(line: str, found: Mapping[Keys, int]) -> Keys:
    """The full keys of a `[table]` or the next `[[table]]`; empty when the line is neither."""
    try:
        path = _path(line)
    except tomllib.TOMLDecodeError:
        return ()
    keys: Keys = ()
    for at, part in enumerate(path):
        keys = (*keys, part)
        count = sum(1 for k in found if len(k) == len(keys) + 1 and k[:-1] == keys and isinstance(k[-1], int))
        last = at == len(path) - 1
        if last and line.startswith("[["):
            keys = (*keys, count)
        elif not last and count:
            keys = (*keys, count - 1)
    return keys


def _path(line: str) -> tuple[str, ...]:
    """The nested keys of one line of TOML."""
    data: Any = tomllib.loads(line)
    path = []
    while isinstance(data, (dict, list)) and data:
        if isinstance(data, list):
            data = data[0]
            continue
        key = next(iter(data))
        path.append(key)
        data = data[key]
    return tuple(path)
