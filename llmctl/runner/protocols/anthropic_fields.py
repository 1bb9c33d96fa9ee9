"""What an Anthropic request may hold. One line a field: how it is checked, and where its value goes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llmctl.domain import JSON_SCHEMA, TOKENIZE, Format, GenerateRequest, Sampling, Task
from llmctl.runner.protocols.anthropic_messages import conversation, system
from llmctl.runner.protocols.asked import Asked, new_id
from llmctl.runner.protocols.checks import (
    Field,
    flag,
    integer,
    number,
    read,
    strings,
    text,
    typed,
    unknown,
    unsupported,
    wrong,
)

STOPS = 64
STOP_LENGTH = 1024
TOOLS = 256
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
TOOL_FIELDS = ("name", "description", "input_schema")
TOOL_IGNORED = (
    *("type", "cache_control", "strict", "defer_loading", "allowed_callers", "eager_input_streaming"),
    "input_examples",
)
THOUGHT = 1024  # the least budget of thinking
EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def tools(name: str, value: Any) -> tuple[dict[str, Any], ...]:
    """The client's own tools; those that Anthropic's servers run are not here."""
    if len(typed(name, value, list, "an array")) > TOOLS:
        raise wrong(name, f"at most {TOOLS} are taken")
    found = tuple(_tool(f"{name}[{i}]", item) for i, item in enumerate(value))
    if len({tool["name"] for tool in found}) < len(found):
        raise wrong(name, "two have the same name")
    return found


def _tool(at: str, value: Any) -> dict[str, Any]:
    kind = typed(at, value, dict, "an object").get("type")
    if kind not in (None, "custom"):
        raise wrong(f"{at}.type", "only custom tools are taken: this slot runs none itself", code="unsupported_value")
    for key in value:
        if key not in TOOL_FIELDS + TOOL_IGNORED:
            raise unknown(key, TOOL_FIELDS, f"{at}.")
    called = text(f"{at}.name", value.get("name"))
    if not TOOL_NAME.fullmatch(called):
        raise wrong(f"{at}.name", "must be 1 to 128 letters, digits, _ and -")
    schema = typed(f"{at}.input_schema", value.get("input_schema"), dict, "an object")
    if schema.get("type") != "object":
        raise wrong(f"{at}.input_schema.type", 'must be "object"')
    described = value.get("description")
    return {
        "name": called,
        "description": "" if described is None else text(f"{at}.description", described),
        "parameters": schema,
    }


def tool_choice(name: str, value: Any) -> dict[str, Any]:
    """{"type": auto|any|tool|none, "name", "disable_parallel_tool_use"}."""
    known = {
        "type": Field(text, "type"),
        "name": Field(text, "name"),
        "disable_parallel_tool_use": Field(flag, "alone"),
    }
    choice = read(typed(name, value, dict, "an object"), known)
    if choice.get("type") not in ("auto", "any", "tool", "none"):
        raise wrong(f"{name}.type", "must be auto, any, tool or none")
    if choice["type"] == "tool" and "name" not in choice:
        raise wrong(f"{name}.name", "is missing", code="missing_field")
    return choice


def thinking(name: str, value: Any) -> bool | None:
    """Whether the model thinks first; None leaves it to the model."""
    kind = typed(name, value, dict, "an object").get("type")
    if kind == "enabled":
        integer(THOUGHT)(f"{name}.budget_tokens", value.get("budget_tokens"))
        return True
    if kind in ("disabled", "between_tools"):
        return False
    if kind == "adaptive":
        return None
    raise wrong(f"{name}.type", "must be enabled, disabled or adaptive")


def schema_format(name: str, value: Any) -> Format:
    """{"type": "json_schema", "schema"}."""
    if typed(name, value, dict, "an object").get("type") != "json_schema":
        raise wrong(f"{name}.type", 'must be "json_schema"')
    return Format(JSON_SCHEMA, json.dumps(typed(f"{name}.schema", value.get("schema"), dict, "an object")))


def output_config(name: str, value: Any) -> dict[str, Any]:
    """{"effort", "format"}."""
    known = {"effort": Field(_effort, "effort"), "format": Field(schema_format, "format")}
    return read(typed(name, value, dict, "an object"), known)


def _effort(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in EFFORTS:
        raise wrong(f"output_config.{name}", f"must be one of {', '.join(EFFORTS)}")
    return EFFORTS[value]


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
    values = _required(read(body, MESSAGES, IGNORED), "max_tokens")
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
    values = _required(read(body, COUNTED, (*IGNORED, *MESSAGES)))
    if values["conversation"].sources:
        raise wrong("messages", "tokens of images are not counted", code="unsupported_content")
    asked = _prompt(values)
    return values.get("model"), Task(new_id("count"), TOKENIZE, {key: asked[key] for key in ("messages", "tools")})


def _required(values: dict[str, Any], *names: str) -> dict[str, Any]:
    for name, target in [("messages", "conversation"), *((name, name) for name in names)]:
        if target not in values:
            raise wrong(name, "is missing", code="missing_field")
    return values


def _prompt(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a GenerateRequest that the prompt is made of."""
    talk, before = values["conversation"], values.get("system")
    first = ({"role": "system", "content": before},) if before else ()
    offered, choice = values.get("tools", ()), values.get("tool_choice") or {"type": "auto"}
    if choice["type"] == "none":
        offered = ()
    elif choice["type"] == "tool":
        offered = tuple(tool for tool in offered if tool["name"] == choice["name"])
    if choice["type"] in ("any", "tool") and not offered:
        raise wrong("tool_choice", "there is no such tool")
    return {
        "messages": (*first, *talk.messages),
        "continue_last": talk.prefill,
        "tools": offered,
        "tool_choice": "required" if choice["type"] in ("any", "tool") else "auto",
        "parallel_tools": not choice.get("alone", False),
    }


def _output(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a GenerateRequest that say how the answer is made."""
    config = values.get("output_config", {})
    return {
        "thinking": values.get("thinking"),
        "effort": config.get("effort"),
        "format": config.get("format") or values.get("format"),
    }
