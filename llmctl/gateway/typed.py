"""Rows of JSON files that somebody may have edited by hand: each value of the type that its field has, or none at all.

Who edits a file errs in types too, and a request would meet that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from llmctl.domain import build

T = TypeVar("T")


def typed(cls: type[T], row: Mapping[str, Any]) -> T:
    """What `build` makes of the row; ValueError for the first field of another type than that of `cls`."""
    for name, hint in get_type_hints(cls).items():
        if name in row and not _is(row[name], hint):
            raise ValueError(f"{name} = {row[name]!r:.80}")
    return build(cls, row)


def _is(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_is(value, one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        many = inner[-1] is Ellipsis
        return (
            isinstance(value, list | tuple) and (many or len(value) == len(inner))
            and all(_is(one, inner[0]) for one in value)
        )  # fmt: skip
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
