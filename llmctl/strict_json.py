"""JSON of others, read strictly: what two parsers would read differently is refused by name, never repeated."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

DEPTH = 128
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class StrictError(ValueError):
    """Why the bytes are not acceptable; `line` (from 1) where it is known."""

    def __init__(self, why: str, line: int = 1) -> None:
        super().__init__(why)
        self.line = line


def loads(data: bytes, what: str) -> Any:
    """The value in `data`; StrictError "`what` is …", as in "the file is empty"."""
    try:
        return _value(data)
    except StrictError as error:
        raise StrictError(f"{what} {error}", error.line) from None


def kind(value: Any) -> str:
    """The JSON name of a value's type, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {int: "an integer", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return names[type(value)]


def _value(data: bytes) -> Any:
    if not data.strip():
        raise StrictError("is empty")
    if data.startswith(BOM):
        raise StrictError("starts with a byte order mark")
    try:
        value = _decoder.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StrictError(f"is not UTF-8: byte {error.start}", line) from None
    except json.JSONDecodeError as error:
        raise StrictError(
            f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", error.lineno
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except StrictError:
        raise
    except ValueError:  # an int of more digits than Python converts
        raise StrictError("holds a number with too many digits") from None
    if data.count(b"[") + data.count(b"{") > DEPTH:
        _check_depth(value)
    if SURROGATE.search(data):
        _check_text(value)
    return value


def _too_deep() -> StrictError:
    return StrictError(f"is nested deeper than {DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise StrictError(f"has the key {twice[:100]!a} twice in one object")
    return found


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise StrictError("holds a number that is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise StrictError(f"holds {name}, which is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)


def _check_depth(value: Any) -> None:
    """Refuse more than DEPTH levels; level by level, so that the check itself does not recurse."""
    level = [value]
    for _ in range(DEPTH + 1):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (list, dict))]
        if not level:
            return
    raise _too_deep()


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_text(value: Any) -> None:
    """Refuse half a surrogate pair, which no encoder takes later."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise StrictError("holds half a surrogate pair in a string") from None
