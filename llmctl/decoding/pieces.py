"""What a model's output is made of: text, thoughts and calls of tools; and how calls are read from JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Text:
    """A part of the answer."""

    text: str


@dataclass(frozen=True)
class Thought:
    """A part of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class Call:
    """A whole call of a tool; `arguments` is JSON text of an object."""

    name: str
    arguments: str


Piece = Text | Thought | Call


class Parser(Protocol):
    """Tells the pieces of an output apart as it comes. What is given out never depends on how the text was cut."""

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that it goes by; where these are special tokens, they have to be in what is pushed."""

    @property
    def held(self) -> str:
        """What has come and may still become another piece than text."""

    def push(self, text: str) -> list[Piece]: ...
    def end(self) -> list[Piece]: ...


class Plain:
    """An output that is all text."""

    markers = ()
    held = ""

    def push(self, text: str) -> list[Piece]:
        return [Text(text)] if text else []

    def end(self) -> list[Piece]:
        return []


class Stepping(ABC):
    """A parser that holds what it is not certain of, and takes steps through it until one needs more text."""

    markers: tuple[str, ...] = ()

    def __init__(self, tools: Mapping[str, Any]) -> None:
        self._tools = tools
        self.held = ""

    def push(self, text: str) -> list[Piece]:
        self.held += text
        pieces: list[Piece] = []
        while self._advance(pieces):
            pass
        return pieces

    @abstractmethod
    def end(self) -> list[Piece]: ...

    @abstractmethod
    def _advance(self, pieces: list[Piece]) -> bool:
        """Take one step; False when more text is needed."""


def begun(text: str, marker: str) -> int:
    """How many characters at the end of `text` may be the beginning of `marker`."""
    most = min(len(text), len(marker) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(marker[:n])), 0)


class JsonEnd:
    """Finds where the first JSON object or list in a growing text ends, and which of its quotes are open."""

    def __init__(self) -> None:
        self.quoted = False
        self._at = self._depth = 0
        self._escaped = False

    def skip(self, to: int) -> None:
        """Do not look at what stands before a place."""
        self._at = max(self._at, to)

    def find(self, text: str, until: int | None = None) -> int | None:
        """The place behind the value, looking on from where the last call ended; None when it is not there yet."""
        stop = len(text) if until is None else until
        while self._at < stop:
            char = text[self._at]
            self._at += 1
            if self._escaped:
                self._escaped = False
            elif self.quoted:
                self._escaped = char == "\\"
                self.quoted = char != '"'
            elif char == '"':
                self.quoted = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return self._at
        return None


def calls_in(text: str, tools: Collection[str], *, bare: bool = False) -> list[Call]:
    """The calls that a JSON object, or a list of such, means; none when any of it is broken or no known tool's.

    A `bare` object must have arguments: without a marker around it, it may be an answer that happens to be JSON.
    """
    try:
        value = json.loads(text, parse_constant=_reject)
        found = [_call(one, tools, bare) for one in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError):
        return []
    return [call for call in found if call] if all(found) else []


def arguments_text(value: Mapping[str, Any]) -> str:
    """Arguments as JSON text; ValueError for what JSON or UTF-8 does not have."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def _call(value: Any, tools: Collection[str], bare: bool) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value["name"] not in tools:
        return None
    given = value.get("arguments", value.get("parameters", None if bare else {}))
    if isinstance(given, str):
        given = json.loads(given, parse_constant=_reject)
    return Call(value["name"], arguments_text(given)) if isinstance(given, dict) else None


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
