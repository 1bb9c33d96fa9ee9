"""What a request to OpenAI's /v1/responses may ask. Nothing is stored: each request brings its whole history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.runner.protocols.asked import Asked, new_id
from llmctl.runner.protocols.checks import Field, choice, flag, integer, object_, read, text, typed, wrong
from llmctl.runner.protocols.openai_fields import (
    ALTERNATIVES,
    COMMON,
    SAMPLING,
    asked,
    client_template,
    effort,
    thinking,
)
from llmctl.runner.protocols.openai_format import text_format
from llmctl.runner.protocols.openai_items import conversation
from llmctl.runner.protocols.openai_tools import chosen, flat_tools, tool_choice

LOGPROBS = "message.output_text.logprobs"


def text_options(name: str, value: Any) -> dict[str, Any]:
    """{"format", "verbosity"}"""
    known = {"format": Field(text_format, "format"), "verbosity": Field(choice("low", "medium", "high"), "verbosity")}
    return read(object_(name, value), known, at=name)


def reasoning(name: str, value: Any) -> str | None:
    """The effort; no model here sums up what it thought, so a summary is not made."""
    summary = Field(choice("auto", "concise", "detailed"), "summary")
    known = {"effort": Field(effort, "effort"), "summary": summary, "generate_summary": summary}
    return read(object_(name, value), known, at=name).get("effort")


def include(name: str, value: Any) -> bool:
    """Whether logprobs are asked for; what else may be included, no answer from here has."""
    for item in typed(name, value, list, "an array of strings"):
        typed(name, item, str, "an array of strings")
    return LOGPROBS in value


def not_stored(name: str, value: Any) -> None:
    """What needs the answers of earlier requests."""
    raise wrong(name, "is not taken: this slot keeps no answers; send the whole history as input", code="not_stored")


def now_only(name: str, value: Any) -> None:
    """An answer comes on the connection that asked for it."""
    if typed(name, value, bool, "a boolean"):
        raise wrong(name, "is not supported: answers are not kept", code="unsupported_value")


def whole_history(name: str, value: Any) -> None:
    """What does not fit is an error, and never dropped in silence."""
    if value != "disabled":
        raise wrong(name, 'only "disabled" is supported', code="unsupported_value")


OBFUSCATION = {"include_obfuscation": Field(flag, "")}
RESPONSE = SAMPLING | {
    "model": COMMON["model"],
    "stream": COMMON["stream"],
    "stream_options": Field(lambda name, value: read(object_(name, value), OBFUSCATION, at=name), ""),
    "input": Field(conversation, "conversation", {"type": "string", "minLength": 1}),
    "instructions": Field(text, "instructions"),
    "max_output_tokens": Field(integer(1), "max_tokens"),
    "tools": Field(flat_tools, "tools", {"type": "array", "maxItems": 0}),
    "tool_choice": Field(tool_choice, "tool_choice", {"enum": ["auto", "none"]}),
    "parallel_tool_calls": Field(flag, "parallel_tools"),
    "text": Field(text_options, "text", {"type": "object", "maxProperties": 0}),
    "reasoning": Field(reasoning, "reasoning_effort", {"type": "object", "maxProperties": 0}),
    "top_logprobs": Field(integer(0, ALTERNATIVES), "top_logprobs"),
    "include": Field(include, "want_logprobs", {"type": "array", "items": {"type": "string"}}),
    "previous_response_id": Field(not_stored, "", {"const": None}),
    "conversation": Field(not_stored, "", {"const": None}),
    "prompt": Field(client_template, "", {"const": None}),
    "background": Field(now_only, "", {"const": False}),
    "truncation": Field(whole_history, "", {"const": "disabled"}),
    "store": Field(flag, ""),
    "metadata": Field(object_, "metadata"),
}
IGNORED = ("user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "max_tool_calls")
SHOWN: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
}
"""What an answer says again of its request, with what it is when the request does not say."""


def read_response(body: Mapping[str, Any], time_cap: float) -> Asked:
    """The body of /v1/responses; RequestError 400 names the first field at fault. `options` is what is SHOWN."""
    values = read(body, RESPONSE, IGNORED, required=("input",))
    messages, sources = values.pop("conversation")
    if "instructions" in values:
        messages = ({"role": "system", "content": values["instructions"]}, *messages)
    if values.get("want_logprobs"):
        values["logprobs"] = values.get("top_logprobs", 0)
    values["format.response_format"] = values.get("text", {}).get("format")
    values |= chosen(values.get("tools", ()), values.get("tool_choice", "auto"))
    found = asked(values | thinking(values) | {"messages": messages}, new_id("resp"), time_cap, sources)
    shown = {name: shown_again(default, body.get(name)) for name, default in SHOWN.items()}
    return Asked(found.request, found.model, found.stream, found.sources, options=shown)


def shown_again(default: Any, given: Any) -> Any:
    """A field of SHOWN; what an object does not say is as the default has it."""
    if given is None:
        return default
    return {**default, **given} if isinstance(default, dict) else given
