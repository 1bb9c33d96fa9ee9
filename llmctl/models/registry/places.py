"""On which line of a JSON text each value stands, by its JSON pointer (RFC 6901)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def lines(text: str) -> Mapping[str, int]:
    """Pointer → line (from 1), of a text that is known to be JSON; where a value has a key, the line of the key."""
    found = {"": 1}
    for where, line in _walk(text):
        found.setdefault(where, line)
    return found


def twice(text: str) -> tuple[str, int] | None:
    """The first value whose key stands in its object already, in a text of which that is the first mistake."""
    seen = set()
    for where, line in _walk(text):
        if where in seen:
            return where, line
        seen.add(where)
    return None


def _walk(text: str) -> Iterator[tuple[str, int]]:
    """Every value's pointer and line, in the order of the text."""
    path: list[str | int] = []  # the place in each open container, innermost last
    awaits_key = False
    line, at = 1, 0
    for token in _TOKEN.finditer(text):
        line, at = line + text.count("\n", at, token.start()), token.start()
        word = token[0]
        if word in ("}", "]"):
            path.pop()
            awaits_key = False
        elif word == ",":
            last = path[-1]
            awaits_key = isinstance(last, str)
            path[-1] = last + 1 if isinstance(last, int) else last
        elif awaits_key:
            path[-1], awaits_key = json.loads(word), False
            yield pointer(path), line
        elif word != ":":
            if path and isinstance(path[-1], int):
                yield pointer(path), line
            if word in ("{", "["):
                path.append("" if word == "{" else 0)
                awaits_key = word == "{"


def pointer(path: Iterable[str | int]) -> str:
    """The JSON pointer of nested keys and indexes."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)
