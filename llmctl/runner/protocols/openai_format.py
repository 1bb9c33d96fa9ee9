"""What an answer must match: OpenAI's response_format and text.format, and the extensions that vLLM named."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llmctl.domain import GRAMMAR, JSON_OBJECT, JSON_SCHEMA, REGEX, Format
from llmctl.runner.protocols.checks import Field, array, flag, named, object_, read, string, text, typed, wrong

LONGEST = 256 * 2**10  # characters of a schema, an expression or a grammar; compiling one is the engine's work
CHOICES = 1024

SCHEMA_FIELDS = {
    "name": Field(named, "name"),
    "description": Field(text, "description"),
    "schema": Field(lambda name, value: schema(name, value), "format"),
    "strict": Field(flag, "strict"),
}


def response_format(name: str, value: Any) -> Format | None:
    """{"type": text, json_object or json_schema, "json_schema": {"name", "schema", "strict"}}; None is free text.

    A schema is always kept to, `strict` or not. A json_object may have its `schema` beside it.
    """
    kind, given = _kind(name, value)
    if kind == "json_object":
        beside: Format | None = read(given, {"schema": Field(schema, "format")}, at=name).get("format")
        return beside or Format(JSON_OBJECT)
    if kind == "text":
        read(given, {}, at=name)
        return None
    inside = read(given, {"json_schema": Field(object_, "inside")}, at=name, required=("json_schema",))["inside"]
    return _named_schema(f"{name}.json_schema", inside)


def text_format(name: str, value: Any) -> Format | None:
    """The same as the responses have it: name and schema beside the type."""
    kind, given = _kind(name, value)
    if kind == "json_schema":
        return _named_schema(name, given)
    read(given, {}, at=name)
    return Format(JSON_OBJECT) if kind == "json_object" else None


def _kind(name: str, value: Any) -> tuple[str, dict[str, Any]]:
    given = object_(name, value)
    kind = given.pop("type", None)
    if kind not in ("text", "json_object", "json_schema"):
        raise wrong(f"{name}.type", "must be one of text, json_object, json_schema", code="unsupported_value")
    return str(kind), given


def _named_schema(at: str, given: Mapping[str, Any]) -> Format:
    found: Format = read(given, SCHEMA_FIELDS, at=at, required=("name", "schema"))["format"]
    return found


def schema(name: str, value: Any) -> Format:
    """A JSON schema as an object."""
    return _format(name, JSON_SCHEMA, json.dumps(object_(name, value), ensure_ascii=False))


def json_guide(name: str, value: Any) -> Format:
    """A JSON schema, as an object or as its JSON text. The engine says whether it is one."""
    typed(name, value, (dict, str), "an object or its JSON text")
    return schema(name, value) if isinstance(value, dict) else _format(name, JSON_SCHEMA, value)


def regex(name: str, value: Any) -> Format:
    """A regular expression that the whole answer matches."""
    return _format(name, REGEX, text(name, value))


def grammar(name: str, value: Any) -> Format:
    """A grammar in Lark's language."""
    return _format(name, GRAMMAR, text(name, value))


def alternatives(name: str, value: Any) -> Format:
    """One of a few texts."""
    one = string(LONGEST)
    return _format(name, REGEX, "|".join(re.escape(one(name, item)) for item in array(name, value, CHOICES)))


def _format(name: str, kind: str, source: str) -> Format:
    if not 0 < len(source) <= LONGEST:
        raise wrong(name, f"must have 1 to {LONGEST} characters")
    return Format(kind, source)


STRUCTURED = {
    "json": Field(json_guide, "json"),
    "regex": Field(regex, "regex"),
    "choice": Field(alternatives, "choice"),
    "grammar": Field(grammar, "grammar"),
    "json_object": Field(flag, "json_object"),
}


def structured_outputs(name: str, value: Any) -> Format | None:
    """vLLM's: one of json, regex, choice, grammar, json_object."""
    found = read(object_(name, value), STRUCTURED, at=name)
    formats = [Format(JSON_OBJECT) if one is True else one for one in found.values() if one is not False]
    if len(formats) > 1:
        raise wrong(name, "takes one of " + ", ".join(STRUCTURED))
    return formats[0] if formats else None


GUIDES = {
    "response_format": Field(response_format, "format.response_format", {"type": "object", "required": ["type"]}),
    "structured_outputs": Field(structured_outputs, "format.structured_outputs", {"type": "object"}),
    "guided_json": Field(json_guide, "format.guided_json", {"type": ["object", "string"]}),
    "guided_regex": Field(regex, "format.guided_regex", {"type": "string"}),
    "guided_choice": Field(alternatives, "format.guided_choice", {"type": "array", "items": {"type": "string"}}),
    "guided_grammar": Field(grammar, "format.guided_grammar", {"type": "string"}),
}


def the_format(values: Mapping[str, Any]) -> Format | None:
    """The one format among the values of a request's GUIDES."""
    given = {name: value for name in GUIDES if (value := values.get(f"format.{name}"))}
    if len(given) > 1:
        first, second = list(given)[:2]
        raise wrong(second, f"cannot be beside {first}: an answer matches one thing")
    return next(iter(given.values()), None)
