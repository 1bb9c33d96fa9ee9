"""The part of JSON Schema that prompts use: what a schema may say, and what in a value is against it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from llmctl.strict_json import kind

TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
KNOWN: Mapping[str, type | tuple[type, ...]] = {
    "type": str, "properties": dict, "required": list, "additionalProperties": bool, "items": dict, "enum": list,
    "minimum": (int, float), "maximum": (int, float), "minItems": int, "maxItems": int, "description": str,
}  # fmt: skip


def mistakes(schema: Any, at: str = "schema") -> Iterator[str]:
    """What keeps a schema from being one of ours."""
    if not isinstance(schema, Mapping):
        yield f"{at} must be a table"
        return
    for key, value in schema.items():
        fits = isinstance(value, KNOWN.get(key, object))
        if key not in KNOWN:
            yield f"{at}.{key} is not known here; known are {', '.join(KNOWN)}"
        elif not fits:
            yield f"{at}.{key} has the wrong type"
        elif key == "type" and value not in TYPES:
            yield f"{at}.type {value!r} is none of {', '.join(TYPES)}"
        elif key == "required" and not all(isinstance(name, str) for name in value):
            yield f"{at}.required must be a list of names"
        elif key == "items":
            yield from mistakes(value, f"{at}.items")
        elif key == "properties":
            for name, inner in value.items():
                yield from mistakes(inner, f"{at}.properties.{name}")


def wrong(schema: Mapping[str, Any], value: Any, at: str = "the answer") -> str | None:
    """The first thing in `value` that is against the schema."""
    return next(_wrong(schema, value, at), None)


def _wrong(schema: Mapping[str, Any], value: Any, at: str) -> Iterator[str]:
    wanted = schema.get("type")
    if wanted and (not isinstance(value, TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean")):
        yield f"{at} is {kind(value)}, and no {wanted}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at} is {value!r}, and none of {', '.join(map(repr, schema['enum']))}"
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    if isinstance(value, int | float) and not low <= value <= high:
        yield f"{at} is {value}, which is not from {low} to {high}"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
            yield f"{at} has {len(value)} items"
        for i, item in enumerate(value):
            yield from _wrong(schema.get("items", {}), item, f"{at}[{i}]")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        yield from (f"{at} has no {name!r}" for name in schema.get("required", ()) if name not in value)
        if schema.get("additionalProperties") is False:
            yield from (f"{at} has {name!r} besides" for name in value if name not in properties)
        for name, inner in properties.items():
            if name in value:
                yield from _wrong(inner, value[name], f"{at}.{name}")
