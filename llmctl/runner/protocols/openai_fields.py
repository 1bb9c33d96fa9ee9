"""What an OpenAI chat may ask. One line a field: how it is checked, and where its value goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from llmctl.domain import TEXT, GenerateRequest, Sampling
from llmctl.runner.media.source import Source
from llmctl.runner.protocols.asked import Asked, new_id
from llmctl.runner.protocols.checks import (
    INT_MAX,
    Field,
    choice,
    flag,
    integer,
    number,
    object_,
    read,
    strings,
    text,
    token_ids,
    typed,
    unsupported,
    wrong,
)
from llmctl.runner.protocols.openai_format import GUIDES, the_format
from llmctl.runner.protocols.openai_messages import SCHEMA as MESSAGES_SCHEMA
from llmctl.runner.protocols.openai_messages import conversation
from llmctl.runner.protocols.openai_tools import TOOLS_SCHEMA, chosen, tool_choice, tools

SEQUENCES = 16
STOPS = 16
STOP_LENGTH = 1024
BIASES = 1024
ALTERNATIVES = 20


def seed(name: str, value: Any) -> int:
    """Any 64-bit integer, signed or not; the engine gets it as unsigned."""
    return int(integer(-(2**63), 2**64 - 1)(name, value)) % 2**64


def top_k(name: str, value: Any) -> int:
    """0 and -1 are both off."""
    return max(int(integer(-1)(name, value)), 0)


def logit_bias(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    """{token id in decimal: bias}."""
    if len(typed(name, value, dict, "an object")) > BIASES:
        raise wrong(name, f"at most {BIASES} entries are taken")
    for id in value:
        if not (id.isascii() and id.isdigit() and len(id) <= 10):
            raise wrong(name, "keys must be token ids as decimal strings")
    bias = number(-100, 100)
    return tuple((int(id), bias(name, amount)) for id, amount in value.items())


def stream_options(name: str, value: Any) -> bool:
    """Whether the usage is asked for."""
    known = {"include_usage": Field(flag, "include_usage"), "include_obfuscation": Field(flag, "")}
    return bool(read(object_(name, value), known, at=name).get("include_usage", False))


def only_text(name: str, value: Any) -> None:
    """The one modality that any engine puts out."""
    if value != [TEXT]:
        raise wrong(name, 'only ["text"] is supported', code="unsupported_value")


def client_template(name: str, value: Any) -> None:
    """A template is a program: the model's own is used."""
    raise wrong(name, "is not taken from a client", code="unsupported_field")


def use_tools(name: str, value: Any) -> None:
    """The older shape of tools."""
    raise wrong(name, "is not taken; send tools and tool_choice", code="unsupported_field")


# ── thinking ────────────────────────────────────────────────────────────────────────────────────────────────────────

EFFORTS: Mapping[str, Mapping[str, Any]] = {
    "none": {"thinking": False},
    "minimal": {"effort": "low"},
    "low": {"thinking": True, "effort": "low"},
    "medium": {"thinking": True, "effort": "medium"},
    "high": {"thinking": True, "effort": "high"},
    "xhigh": {"thinking": True, "effort": "high"},
}
effort = choice(*EFFORTS)


def template_arguments(name: str, value: Any) -> dict[str, Any]:
    """The variables of a chat template that a client may set: those that say how much the model thinks."""
    known = {"enable_thinking": Field(flag, "thinking"), "thinking": Field(flag, "thinking")}
    return read(object_(name, value), known | {"reasoning_effort": Field(effort, "reasoning_effort")}, at=name)


def thinking(values: Mapping[str, Any]) -> dict[str, Any]:
    """`thinking` and `effort` of a GenerateRequest: an effort may say both, a plain yes or no says it last."""
    found: dict[str, Any] = {}
    for given in (values, values.get("template_arguments", {})):
        if given.get("reasoning_effort"):
            found |= EFFORTS[given["reasoning_effort"]]
        if "thinking" in given:
            found["thinking"] = given["thinking"]
    return found


# ── the fields ──────────────────────────────────────────────────────────────────────────────────────────────────────

SAMPLING: dict[str, Field] = {
    "temperature": Field(number(0, 2), "sampling.temperature"),
    "top_p": Field(number(0, 1, above=True), "sampling.top_p"),
    "top_k": Field(top_k, "sampling.top_k", {"type": "integer", "minimum": -1, "maximum": INT_MAX}),
    "min_p": Field(number(0, 1), "sampling.min_p"),
    "repetition_penalty": Field(number(0, 10, above=True), "sampling.repetition_penalty"),
    "presence_penalty": Field(number(-2, 2), "sampling.presence_penalty"),
    "frequency_penalty": Field(number(-2, 2), "sampling.frequency_penalty"),
    "seed": Field(seed, "sampling.seed", {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1}),
    "logit_bias": Field(
        logit_bias,
        "sampling.logit_bias",
        {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}},
    ),
    "stop": Field(strings(STOPS, STOP_LENGTH), "stop"),
    "stop_token_ids": Field(token_ids(BIASES), "stop_ids"),
    "ignore_eos": Field(flag, "ignore_eos"),
}
COMMON: dict[str, Field] = {
    "model": Field(text, "model"),
    "stream": Field(flag, "stream"),
    "stream_options": Field(stream_options, "include_usage", {"type": "object"}),
    "max_tokens": Field(integer(1), "max_tokens"),
    "n": Field(integer(1, SEQUENCES), "n"),
    "adapter": Field(text, "adapter"),
    **SAMPLING,
    **GUIDES,
}
CHAT = COMMON | {
    "messages": Field(conversation, "conversation", MESSAGES_SCHEMA),
    "max_completion_tokens": Field(integer(1), "max_completion_tokens"),
    "logprobs": Field(flag, "want_logprobs"),
    "top_logprobs": Field(integer(0, ALTERNATIVES), "top_logprobs"),
    "tools": Field(tools, "tools", TOOLS_SCHEMA),
    "tool_choice": Field(tool_choice, "tool_choice", {"enum": ["auto", "none"]}),
    "parallel_tool_calls": Field(flag, "parallel_tools"),
    "functions": Field(use_tools, "", {"const": None}),
    "function_call": Field(use_tools, "", {"const": None}),
    "reasoning_effort": Field(effort, "reasoning_effort"),
    "enable_thinking": Field(flag, "thinking"),
    "chat_template_kwargs": Field(template_arguments, "template_arguments", {"type": "object"}),
    "chat_template": Field(client_template, "", {"const": None}),
    "continue_final_message": Field(flag, "continue_last"),
    "modalities": Field(only_text, "", {"const": [TEXT]}),
    "audio": Field(unsupported, "", {"const": None}),
    "web_search_options": Field(unsupported, "", {"const": None}),
}
IGNORED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    *("prediction", "verbosity"),
)


def read_chat(body: Mapping[str, Any], time_cap: float) -> Asked:
    """The body of /v1/chat/completions; RequestError 400 names the first field at fault."""
    values = read(body, CHAT, IGNORED, required=("messages",))
    messages, sources = values.pop("conversation")
    if "max_completion_tokens" in values:
        values["max_tokens"] = values["max_completion_tokens"]
    if values.get("want_logprobs"):
        values["logprobs"] = values.get("top_logprobs", 0)
    elif values.get("top_logprobs"):
        raise wrong("top_logprobs", "needs logprobs: true")
    if values.get("continue_last") and messages[-1]["role"] != "assistant":
        raise wrong("continue_final_message", "needs a last message of the assistant")
    values |= chosen(values.get("tools", ()), values.get("tool_choice", "auto"))
    return asked(values | thinking(values) | {"messages": messages}, new_id("chatcmpl"), time_cap, sources)


OF_REQUEST = tuple(one.name for one in fields(GenerateRequest) if one.name not in ("id", "sampling", "format", "media"))


def asked(values: Mapping[str, Any], id: str, time_cap: float, sources: Sequence[Source] = ()) -> Asked:
    """What the checked `values` of a request ask for; each is named as its attribute."""
    sampling = {target[9:]: value for target, value in values.items() if target.startswith("sampling.")}
    own = {target: values[target] for target in OF_REQUEST if target in values}
    request = GenerateRequest(
        id=id, sampling=Sampling(**sampling), format=the_format(values), **{**own, "time_cap": time_cap}
    )
    return Asked(
        request,
        model=values.get("model"),
        stream=values.get("stream", False),
        sources=tuple(sources),
        include_usage=values.get("include_usage", False),
    )
