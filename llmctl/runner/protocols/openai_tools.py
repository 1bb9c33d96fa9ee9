"""Tools as OpenAI's clients describe, choose and answer them; Ollama's tools have the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmctl import strict_json
from llmctl.runner.protocols.checks import (
    NAME,
    Field,
    array,
    choice,
    flag,
    named,
    object_,
    read,
    string,
    text,
    typed,
    wrong,
)

TOOLS = 128
CALLS = 128
ID_LENGTH = 256
DESCRIPTION = 64 * 2**10
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}

Tool = Mapping[str, Any]
Tools = tuple[Tool, ...]


# ── which tools there are ───────────────────────────────────────────────────────────────────────────────────────────


def tools(name: str, value: Any) -> Tools:
    """Functions in the shape of OpenAI's chat, as GenerateRequest has them; none for an empty array."""
    return _all(name, value, _nested)


def flat_tools(name: str, value: Any) -> Tools:
    """Functions in the shape of OpenAI's responses: name and parameters beside the type."""
    return _all(name, value, _flat)


def _all(name: str, value: Any, one: Callable[[str, dict[str, Any]], Tool]) -> Tools:
    if value == []:
        return ()
    found: list[Tool] = []
    for i, item in enumerate(array(name, value, TOOLS)):
        at, given = f"{name}[{i}]", object_(f"{name}[{i}]", item)
        if given.get("type") != "function":
            raise wrong(f"{at}.type", 'must be "function": this slot has no tools of its own', code="unsupported_value")
        found.append(one(at, given))
        if found[-1]["name"] in [tool["name"] for tool in found[:-1]]:
            raise wrong(at, "has the name of another tool")
    return tuple(found)


def _nested(at: str, given: dict[str, Any]) -> Tool:
    inside = read(given, {"type": Field(text, ""), "function": Field(object_, "function")}, at=at)
    return function(f"{at}.function", inside.get("function", {}))


def _flat(at: str, given: dict[str, Any]) -> Tool:
    return function(at, {key: value for key, value in given.items() if key != "type"})


FUNCTION = {
    "name": Field(named, "name"),
    "description": Field(string(DESCRIPTION, 0), "description"),
    "parameters": Field(object_, "parameters"),
    "strict": Field(flag, "strict"),
}


def function(at: str, given: Mapping[str, Any]) -> Tool:
    """One function: {"name", "description", "parameters"}. `strict` changes nothing: a schema is always kept to."""
    values = read(given, FUNCTION, at=at, required=("name",))
    return {
        "name": values["name"],
        "description": values.get("description", ""),
        "parameters": values.get("parameters", NO_PARAMETERS),
    }


# ── which one is to be called ───────────────────────────────────────────────────────────────────────────────────────


def tool_choice(name: str, value: Any) -> str | tuple[str]:
    """auto, none, required, or the one tool that is named: (its name,). The latter in both of OpenAI's shapes."""
    if isinstance(value, str):
        return str(choice("auto", "none", "required")(name, value))
    if typed(name, value, dict, "a string or an object").get("type") != "function":
        raise wrong(f"{name}.type", 'must be "function"', code="unsupported_value")
    at, inside = (f"{name}.function", value["function"]) if "function" in value else (name, value)
    return (text(f"{at}.name", typed(at, inside, dict, "an object").get("name")),)


def chosen(given: Tools, choice: str | tuple[str]) -> dict[str, Any]:
    """`tools` and `tool_choice` of a GenerateRequest: a tool that is named is required, and alone."""
    if isinstance(choice, str):
        if choice == "required" and not given:
            raise wrong("tool_choice", "is required, but there are no tools")
        return {"tools": given, "tool_choice": choice}
    alone = tuple(tool for tool in given if tool["name"] == choice[0])
    if not alone:
        raise wrong("tool_choice", "names a tool that is not among the tools")
    return {"tools": alone, "tool_choice": "required"}


# ── what was called ─────────────────────────────────────────────────────────────────────────────────────────────────


def arguments(name: str, value: Any) -> dict[str, Any]:
    """The object that a call's arguments are the JSON text of; an empty text is an empty object."""
    if not text(name, value).strip():
        return {}
    try:
        found = strict_json.loads(value.encode(), "the text")
    except strict_json.StrictError as error:
        raise wrong(name, f"must be a JSON object as a string; {error}") from None
    return object_(name, found)


CALL = {
    "id": Field(string(ID_LENGTH), "id"),
    "type": Field(choice("function"), "type"),
    "function": Field(object_, "function"),
}
CALLED = {"name": Field(string(ID_LENGTH), "name"), "arguments": Field(arguments, "arguments")}


def calls(at: str, value: Any) -> list[Tool]:
    """The tool calls of an assistant's message; `index` is left in them by who put a stream together."""
    found = []
    for i, item in enumerate(array(at, value, CALLS)):
        here = f"{at}[{i}]"
        given = read(object_(here, item), CALL, ("index",), at=here, required=("id", "function"))
        found.append(call(given["id"], f"{here}.function", given["function"]))
    return found


def call(id: str, at: str, given: Mapping[str, Any]) -> Tool:
    """One call as GenerateRequest has it, from its id, its name and the text of its arguments.

    OpenAI's SDK sends back what it parsed, too.
    """
    values = read(given, CALLED, ("parsed_arguments",), at=at, required=CALLED)
    return {"id": id, "type": "function", "function": values}


# ── in the OpenAPI document ─────────────────────────────────────────────────────────────────────────────────────────


TOOLS_SCHEMA: Mapping[str, Any] = {
    "type": "array",
    "maxItems": TOOLS,
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
                    "description": {"type": "string"},
                    "parameters": {"type": "object"},
                    "strict": {"type": "boolean"},
                },
            },
        },
    },
}
