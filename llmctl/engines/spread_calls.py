"""The calls of the engine protocol that the first host makes on all of them, as JSON and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

COMPUTE = ("prefill", "step", "forward")
"""These compute together: every host must make them, at the same time and in the same order."""
KEEP = ("open", "fork", "free", "reuse", "rewind")
"""These do not wait for the others; each host must come to the same result."""


def arguments(name: str, args: tuple[Any, ...]) -> list[Any]:
    """The arguments of a call as JSON has them."""
    if name == "step":
        return [list(map(list, args[0].items()))]
    if name == "forward":
        return [[[seq, list(tokens)] for seq, tokens in args[0].items()], sorted(args[1])]
    return [list(value) if isinstance(value, list | tuple) else value for value in args]


def perform(engine: Any, name: str, args: list[Any]) -> Any:
    """Make a call that came as JSON."""
    if name not in (*COMPUTE, *KEEP):
        raise ValueError(f"no call {name!r}")
    if name == "open":
        return engine.open(adapter=args[0])
    method: Callable[..., Any] = getattr(engine, name)
    if name == "step":
        return method(dict(map(tuple, args[0])))
    if name == "forward":
        feed: Mapping[int, list[int]] = dict(args[0])
        return method(feed, frozenset(args[1]))
    return method(*args)
