"""JSON from a client, read strictly: what two parsers would read differently is refused by name."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from llmctl.errors import RequestError

DEPTH = 128
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(body: bytes) -> dict[str, Any]:
    """The object in `body`; RequestError 400 that names what is wrong, and never repeats the body."""
    if not body.strip():
        raise _bad("the request body is empty")
    if body.startswith(BOM):
        raise _bad("the request body starts with a byte order mark")
    try:
        value = _decoder.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad(f"the request body is not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _bad(f"the request body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # an int of more digits than Python converts
        raise _bad("a number in the request body has too many digits") from None
    if body.count(b"[") + body.count(b"{") > DEPTH:
        _check_depth(value)
    if SURROGATE.search(body):
        _check_text(value)
    if not isinstance(value, dict):
        raise _bad(f"the request body must be a JSON object, not {kind(value)}")
    return value


def kind(value: Any) -> str:
    """The JSON name of a value's type, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {int: "an integer", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return names[type(value)]


def _bad(message: str) -> RequestError:
    return RequestError(message, code="invalid_json")


def _too_deep() -> RequestError:
    return _bad(f"the request body is nested deeper than {DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _bad(f"the key {twice[:100]!a} occurs twice in one object")
    return found


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _bad("a number in the request body is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise _bad(f"{name} is not JSON")


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
        raise _bad("a string in the request body holds half a surrogate pair") from None
