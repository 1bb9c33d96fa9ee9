"""What an Anthropic request may hold. One line a field: how it is checked, and where its value goes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmctl.domain import TOKENIZE, Format, GenerateRequest, Sampling, Task
from llmctl.runner.protocols.anthropic_messages import conversation, system
from llmctl.runner.protocols.asked import Asked, new_id
from llmctl.runner.protocols.checks import (
    Field,
    array,
    choice,
    flag,
    integer,
    number,
    object_,
    read,
    string,
    strings,
    text,
    unsupported,
    wrong,
)
from llmctl.runner.protocols.openai_format import schema
from llmctl.runner.protocols.openai_tools import DESCRIPTION, Tool, Tools, chosen

STOPS = 64
STOP_LENGTH = 1024
TOOLS = 256
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
THOUGHT = 1024  # the least budget of thinking
THINKING = {"enabled": True, "disabled": False, "between_tools": False, "adaptive": None}
EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def tools(name: str, value: Any) -> Tools:
    """The client's own tools; those that Anthropic's servers run are not here."""
    given = value if value == [] else array(name, value, TOOLS)
    found = tuple(_tool(f"{name}[{i}]", item) for i, item in enumerate(given))
    if len({tool["name"] for tool in found}) < len(found):
        raise wrong(name, "two have the same name")
    return found


def _tool(at: str, value: Any) -> Tool:
    given = object_(at, value)
    if given.get("type") not in (None, "custom"):
        raise wrong(f"{at}.type", "only custom tools are taken: this slot runs none itself", code="unsupported_value")
    values = read(given, TOOL, TOOL_IGNORED, at=at, required=("name", "input_schema"))
    return {
        "name": values["name"],
        "description": values.get("description", ""),
        "parameters": values["input_schema"],
    }


def tool_name(name: str, value: Any) -> str:
    """A name of letters, digits, underscores and dashes."""
    if not TOOL_NAME.fullmatch(text(name, value)):
        raise wrong(name, "must have 1 to 128 letters, digits, underscores or dashes")
    return str(value)


def input_schema(name: str, value: Any) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, which are an object."""
    schema = object_(name, value)
    if schema.get("type") != "object":
        raise wrong(f"{name}.type", 'must be "object"')
    return schema


TOOL = {
    "name": Field(tool_name, "name"),
    "description": Field(string(DESCRIPTION, 0), "description"),
    "input_schema": Field(input_schema, "input_schema"),
}
TOOL_IGNORED = (
    *("type", "cache_control", "strict", "defer_loading", "allowed_callers", "eager_input_streaming"),
    "input_examples",
)
CHOICE = {
    "type": Field(choice("auto", "any", "tool", "none"), "type"),
    "name": Field(text, "name"),
    "disable_parallel_tool_use": Field(flag, "alone"),
}


def tool_choice(name: str, value: Any) -> dict[str, Any]:
    """{"type": auto|any|tool|none, "name", "disable_parallel_tool_use"}."""
    found = read(object_(name, value), CHOICE, at=name, required=("type",))
    if found["type"] == "tool" and "name" not in found:
        raise wrong(f"{name}.name", "is missing", code="missing_field")
    return found


def thinking(name: str, value: Any) -> bool | None:
    """Whether the model thinks first; None leaves it to the model. How long it thinks is its own affair."""
    given = object_(name, value)
    kind = choice(*THINKING)(f"{name}.type", given.get("type"))
    if kind == "enabled":
        integer(THOUGHT)(f"{name}.budget_tokens", given.get("budget_tokens"))
    return THINKING[kind]


def schema_format(name: str, value: Any) -> Format:
    """{"type": "json_schema", "schema"}."""
    known = {"type": Field(choice("json_schema"), ""), "schema": Field(schema, "format")}
    found: Format = read(object_(name, value), known, at=name, required=("type", "schema"))["format"]
    return found


def effort(name: str, value: Any) -> str:
    """How much the model thinks; the two words above "high" say the same as it."""
    return EFFORTS[choice(*EFFORTS)(name, value)]


def output_config(name: str, value: Any) -> dict[str, Any]:
    """{"effort", "format"}."""
    known = {"effort": Field(effort, "effort"), "format": Field(schema_format, "format")}
    return read(object_(name, value), known, at=name)


COUNTED = {
    "model": Field(text, "model"),
    "messages": Field(conversation, "conversation"),
    "system": Field(system, "system"),
    "tools": Field(tools, "tools"),
    "tool_choice": Field(tool_choice, "tool_choice"),
    "thinking": Field(thinking, "thinking"),
    "output_format": Field(schema_format, "format"),
    "output_config": Field(output_config, "output_config"),
    "mcp_servers": Field(unsupported, ""),
    "container": Field(unsupported, ""),
}
MESSAGES = COUNTED | {
    "max_tokens": Field(integer(1), "max_tokens"),
    "temperature": Field(number(0, 1), "sampling.temperature"),
    "top_p": Field(number(0, 1, above=True), "sampling.top_p"),
    "top_k": Field(integer(0), "sampling.top_k"),
    "stop_sequences": Field(strings(STOPS, STOP_LENGTH), "stop"),
    "stream": Field(flag, "stream"),
}
IGNORED = (
    *("metadata", "service_tier", "cache_control", "context_management", "diagnostics", "inference_geo", "speed"),
    *("user_profile_id", "workspace_id", "betas"),
)


def read_messages(body: Mapping[str, Any], time_cap: float, context: int | None = None) -> Asked:
    """The body of /v1/messages; RequestError 400 names the first field at fault.

    `context` is the model's, where one is loaded: clients ask for as many tokens as the largest models take, and get
    what fits. `Asked.options` is what they asked for.
    """
    values = read(body, MESSAGES, IGNORED, required=("messages", "max_tokens"))
    most = values["max_tokens"]
    return Asked(
        GenerateRequest(
            id=new_id("msg"),
            sampling=Sampling(**{key[9:]: value for key, value in values.items() if key.startswith("sampling.")}),
            max_tokens=None if context is not None and most > context else most,
            stop=values.get("stop", ()),
            time_cap=time_cap,
            **_prompt(values),
            **_output(values),
        ),
        model=values.get("model"),
        stream=values.get("stream", False),
        sources=values["conversation"].sources,
        options=most,
    )


def read_count(body: Mapping[str, Any]) -> tuple[str | None, Task]:
    """The body of /v1/messages/count_tokens: the model's name and the question."""
    values = read(body, COUNTED, (*IGNORED, *MESSAGES), required=("messages",))
    if values["conversation"].sources:
        raise wrong("messages", "tokens of images are not counted", code="unsupported_content")
    asked = _prompt(values)
    return values.get("model"), Task(new_id("count"), TOKENIZE, {key: asked[key] for key in ("messages", "tools")})


def _prompt(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a GenerateRequest that the prompt is made of."""
    talk, before = values["conversation"], values.get("system")
    first = ({"role": "system", "content": before},) if before else ()
    wanted = values.get("tool_choice", {"type": "auto"})
    named = {"any": "required", "tool": (wanted.get("name", ""),)}.get(wanted["type"], wanted["type"])
    return {
        "messages": (*first, *talk.messages),
        "continue_last": talk.prefill,
        "parallel_tools": not wanted.get("alone", False),
        **chosen(values.get("tools", ()), named),
    }


def _output(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a GenerateRequest that say how the answer is made."""
    config = values.get("output_config", {})
    return {
        "thinking": values.get("thinking"),
        "effort": config.get("effort"),
        "format": config.get("format") or values.get("format"),
    }
