"""How answers are made: the settings that a person may change, each checked once, here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from llmctl.errors import UsageError, nearest

Check = Callable[[Any], Any]


def _number(low: float, high: float, above: bool = False) -> Check:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("a number")
        if not low <= value <= high or (above and value == low):
            raise ValueError(f"{'above' if above else 'from'} {low:g} to {high:g}")
        return value

    return check


def _integer(low: int, high: int = 2**63 - 1) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("an integer")
        if not low <= value <= high:
            raise ValueError(f"{low} or more" if value < low else f"{high} or less")
        return value

    return check


def _texts(value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(text, str) and text for text in values):
        raise ValueError("a text, or a JSON list of texts")
    if len(values) > 16:
        raise ValueError("at most 16 texts")
    return values


CHECKS: dict[str, Check] = {
    "temperature": _number(0, 2),
    "top_p": _number(0, 1, above=True),
    "top_k": _integer(0),
    "min_p": _number(0, 1),
    "max_tokens": _integer(1),
    "seed": _integer(-(2**63)),
    "stop": _texts,
    "repetition_penalty": _number(0, 10, above=True),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
}


def known(name: str) -> str:
    """The name of a setting; UsageError for any other."""
    if name in CHECKS:
        return name
    close = nearest(name, CHECKS)
    hint = f"did you mean {close!r}?" if close else f"settings: {', '.join(CHECKS)}"
    raise UsageError(f"no setting {name[:140]!r}", hint=hint)


def checked(name: str, value: Any) -> Any:
    """`value` when it may be the setting `name`; UsageError says what may be."""
    try:
        return CHECKS[known(name)](value)
    except ValueError as error:
        raise UsageError(f"{name} must be {error}") from None


def given(**values: Any) -> dict[str, Any]:
    """The settings of a command line: those that are neither None nor empty, checked."""
    return {name: checked(name, value) for name, value in values.items() if value is not None and value != []}


def typed(name: str, text: str) -> Any:
    """A setting as it is typed: JSON, or plain text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return checked(name, text if name == "stop" and not isinstance(value, str | list) else value)


def all_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a file, checked."""
    return {name: checked(name, value) for name, value in values.items()}
