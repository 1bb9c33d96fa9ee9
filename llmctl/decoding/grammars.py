"""The grammars that llguidance is given: of a request's format, and of a JSON schema. Needs no library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmctl.domain import GRAMMAR, JSON_OBJECT, JSON_SCHEMA, REGEX, Format
from llmctl.errors import RequestError

LARGEST = 64 * 2**10
"""Characters of a format's text."""
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Of JSON: on one line, as models write it mostly. Where white space is free, a small model may loop in it."""
Grammar = Mapping[str, Any]
"""A grammar as llguidance takes it: {"json_schema": …} or {"lark_grammar": …}."""


def grammar(format: Format) -> Grammar:
    """The grammar of a request's format; RequestError when it is none."""
    if len(format.text) > LARGEST:
        raise refused(f"it has {len(format.text)} characters, over the limit of {LARGEST}")
    if format.kind == JSON_OBJECT:
        return schema({"type": "object"})
    if format.kind == JSON_SCHEMA:
        try:
            return schema(json.loads(format.text))
        except (ValueError, RecursionError) as error:
            raise refused(f"its schema is not JSON: {error}") from error
    if format.kind == REGEX:
        from llguidance import regex_to_lark

        return {"lark_grammar": f"start: /{regex_to_lark(format.text, '')}/"}
    if format.kind == GRAMMAR:
        return {"lark_grammar": format.text}
    raise refused(f"there is no kind {format.kind!r}")


def schema(value: Any) -> Grammar:
    """The grammar of a JSON schema."""
    if isinstance(value, Mapping):
        value = {**value, "x-guidance": LAYOUT}
    return {"json_schema": value}


def refused(why: str, param: str = "response_format") -> RequestError:
    return RequestError(f"the answer cannot be made to match this format: {why}", param=param, code="invalid_format")
