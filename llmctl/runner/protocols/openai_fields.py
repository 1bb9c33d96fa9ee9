"""What an OpenAI request may hold. One line a field: how it is checked, and where its value goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.domain import GenerateRequest, Sampling
from llmctl.runner.protocols.asked import Asked, new_id
from llmctl.runner.protocols.checks import (
    Field,
    flag,
    integer,
    number,
    read,
    strings,
    text,
    token_ids,
    typed,
    unsupported,
    wrong,
)
from llmctl.runner.protocols.openai_messages import messages

SEQUENCES = 16
STOPS = 16
STOP_LENGTH = 1024
BIASES = 1024
ALTERNATIVES = 20


def prompt(name: str, value: Any) -> str | tuple[int, ...]:
    """A string, an array of one string, or an array of token ids."""
    if isinstance(value, list) and value and isinstance(value[0], (str, list)):
        if len(value) > 1:
            raise wrong(name, "one prompt a request is taken", code="unsupported_value")
        value = value[0]
    found: str | tuple[int, ...]
    found = value if isinstance(value, str) else token_ids()(name, typed(name, value, list, "a string or an array"))
    if not found:
        raise wrong(name, "is empty")
    return found


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


def response_format(name: str, value: Any) -> None:
    """Plain text only, so far."""
    if typed(name, value, dict, "an object").get("type") != "text":
        raise wrong(name, 'only {"type": "text"} is supported yet', code="unsupported_value")


def stream_options(name: str, value: Any) -> bool:
    """Whether the usage is asked for."""
    known = {"include_usage": Field(flag, "include_usage"), "include_obfuscation": Field(flag, "")}
    return bool(read(typed(name, value, dict, "an object"), known).get("include_usage", False))


def only_text(name: str, value: Any) -> None:
    """The one modality."""
    if value != ["text"]:
        raise wrong(name, 'only ["text"] is supported', code="unsupported_value")


def client_template(name: str, value: Any) -> None:
    """A template is a program: the model's own is used."""
    raise wrong(name, "is not taken from a client", code="unsupported_field")


COMMON: dict[str, Field] = {
    "model": Field(text, "model"),
    "stream": Field(flag, "stream"),
    "stream_options": Field(stream_options, "include_usage"),
    "temperature": Field(number(0, 2), "sampling.temperature"),
    "top_p": Field(number(0, 1, above=True), "sampling.top_p"),
    "top_k": Field(top_k, "sampling.top_k"),
    "min_p": Field(number(0, 1), "sampling.min_p"),
    "repetition_penalty": Field(number(0, 10, above=True), "sampling.repetition_penalty"),
    "presence_penalty": Field(number(-2, 2), "sampling.presence_penalty"),
    "frequency_penalty": Field(number(-2, 2), "sampling.frequency_penalty"),
    "seed": Field(seed, "sampling.seed"),
    "logit_bias": Field(logit_bias, "sampling.logit_bias"),
    "max_tokens": Field(integer(1), "max_tokens"),
    "n": Field(integer(1, SEQUENCES), "n"),
    "stop": Field(strings(STOPS, STOP_LENGTH), "stop"),
    "stop_token_ids": Field(token_ids(BIASES), "stop_ids"),
    "ignore_eos": Field(flag, "ignore_eos"),
    "response_format": Field(response_format, ""),
}
CHAT = COMMON | {
    "messages": Field(messages, "messages"),
    "max_completion_tokens": Field(integer(1), "max_completion_tokens"),
    "logprobs": Field(flag, "want_logprobs"),
    "top_logprobs": Field(integer(0, ALTERNATIVES), "top_logprobs"),
    "tools": Field(unsupported, ""),
    "functions": Field(unsupported, ""),
    "audio": Field(unsupported, ""),
    "web_search_options": Field(unsupported, ""),
    "modalities": Field(only_text, ""),
    "chat_template": Field(client_template, ""),
    "chat_template_kwargs": Field(client_template, ""),
}
COMPLETION = COMMON | {
    "prompt": Field(prompt, "prompt"),
    "logprobs": Field(integer(0, ALTERNATIVES), "logprobs"),
    "echo": Field(flag, "echo"),
    "best_of": Field(integer(1, 1), ""),
    "suffix": Field(unsupported, ""),
}
IGNORED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    *("tool_choice", "parallel_tool_calls", "function_call", "prediction", "reasoning_effort", "verbosity"),
)
DEFAULT_COMPLETION_TOKENS = 16


def read_chat(body: Mapping[str, Any], time_cap: float) -> Asked:
    """The body of /v1/chat/completions; RequestError 400 names the first field at fault."""
    values = read(body, CHAT, IGNORED)
    if "messages" not in values:
        raise wrong("messages", "is missing", code="missing_field")
    if "max_completion_tokens" in values:
        values["max_tokens"] = values["max_completion_tokens"]
    if values.get("want_logprobs"):
        values["logprobs"] = values.get("top_logprobs", 0)
    elif values.get("top_logprobs"):
        raise wrong("top_logprobs", "needs logprobs: true")
    return _asked(values, new_id("chatcmpl"), time_cap)


def read_completion(body: Mapping[str, Any], time_cap: float) -> Asked:
    """The body of /v1/completions; RequestError 400 names the first field at fault."""
    values = read(body, COMPLETION, IGNORED)
    if "prompt" not in values:
        raise wrong("prompt", "is missing", code="missing_field")
    values.setdefault("max_tokens", DEFAULT_COMPLETION_TOKENS)
    return _asked(values, new_id("cmpl"), time_cap)


REQUEST = ("messages", "prompt", "max_tokens", "n", "stop", "stop_ids", "logprobs", "echo", "ignore_eos")


def _asked(values: Mapping[str, Any], id: str, time_cap: float) -> Asked:
    sampling = {target[9:]: value for target, value in values.items() if target.startswith("sampling.")}
    request = {target: values[target] for target in REQUEST if target in values}
    return Asked(
        GenerateRequest(id=id, sampling=Sampling(**sampling), time_cap=time_cap, **request),
        model=values.get("model"),
        stream=values.get("stream", False),
        include_usage=values.get("include_usage", False),
    )
