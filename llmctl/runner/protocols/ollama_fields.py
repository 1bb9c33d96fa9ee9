"""What an Ollama request may hold. One line a field: how it is checked, and where its value goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmctl.domain import JSON_OBJECT, Format, GenerateRequest, Identity, Sampling
from llmctl.runner.media.source import Source
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
    strings,
    text,
    typed,
    unsupported,
    wrong,
)
from llmctl.runner.protocols.ollama_messages import conversation, images
from llmctl.runner.protocols.openai_embeddings import Input
from llmctl.runner.protocols.openai_format import schema
from llmctl.runner.protocols.openai_tools import tools

STOPS = 64
STOP_LENGTH = 1024
ALTERNATIVES = 20
INPUTS = 2048
LATEST = ":latest"
DEFAULTS: Mapping[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's own, where a request says nothing; its repeat_penalty is not: what it is for, no model needs any more."""


def model(name: str, value: Any) -> str:
    """A model's name; Ollama's clients add `:latest` to one without a tag."""
    return text(name, value).removesuffix(LATEST)


def template(name: str, value: Any) -> None:
    """A template is a program: the model's own is used."""
    if value != "":
        raise wrong(name, "is not taken from a client", code="unsupported_field")


def format(name: str, value: Any) -> Format | None:
    """ "json", a JSON schema, or "" for free text."""
    if isinstance(value, str) and value in ("", "json"):
        return Format(JSON_OBJECT) if value else None
    typed(name, value, dict, '"json" or a JSON schema')
    found: Format = schema(name, value)
    return found


def think(name: str, value: Any) -> bool | str:
    """true, false, or how much."""
    return value if isinstance(value, bool) else str(choice("low", "medium", "high")(name, value))


def seed(name: str, value: Any) -> int | None:
    """A 64-bit integer; a negative one is a seed of chance."""
    found = integer(-(2**63), 2**64 - 1)(name, value)
    return found if found >= 0 else None


def num_predict(name: str, value: Any) -> int | None:
    """How many tokens; -1 (no end) and -2 (to the end of the context) are the same here."""
    found = integer(-2)(name, value)
    if found == 0:
        raise wrong(name, "must be -2, -1 or at least 1")
    return found if found > 0 else None


def only(off: float) -> Any:
    """A way of sampling that is not here: nothing but the value that turns it off."""

    def check(name: str, value: Any) -> None:
        if typed(name, value, (int, float), "a number") != off:
            raise wrong(name, f"is not supported; only {off:g} (off) is taken", code="unsupported_value")

    return check


OPTIONS = {
    "temperature": Field(number(0, 2), "sampling.temperature"),
    "top_k": Field(integer(0), "sampling.top_k"),
    "top_p": Field(number(0, 1, above=True), "sampling.top_p"),
    "min_p": Field(number(0, 1), "sampling.min_p"),
    "seed": Field(seed, "sampling.seed"),
    "repeat_penalty": Field(number(0, 10, above=True), "sampling.repetition_penalty"),
    "presence_penalty": Field(number(-2, 2), "sampling.presence_penalty"),
    "frequency_penalty": Field(number(-2, 2), "sampling.frequency_penalty"),
    "num_predict": Field(num_predict, "max_tokens"),
    "stop": Field(strings(STOPS, STOP_LENGTH), "stop"),
    "num_ctx": Field(integer(1), "num_ctx"),
    "mirostat": Field(only(0), ""),
    "typical_p": Field(only(1), ""),
    "tfs_z": Field(only(1), ""),
}
OPTIONS_IGNORED = (
    *("numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap"),
    *("use_mlock", "embedding_only", "num_thread", "num_keep", "repeat_last_n", "mirostat_tau", "mirostat_eta"),
    "penalize_newline",
)
"""How a machine is used, and what goes with a way of sampling that is off."""


def options(name: str, value: Any) -> dict[str, Any]:
    """{target: value} of the options."""
    return read(object_(name, value), OPTIONS, OPTIONS_IGNORED, at=name)


COMMON = {
    "model": Field(model, "model"),
    "stream": Field(flag, "stream"),
    "format": Field(format, "format"),
    "options": Field(options, "options"),
    "think": Field(think, "think"),
    "template": Field(template, ""),
    "logprobs": Field(flag, "logprobs"),
    "top_logprobs": Field(integer(0, ALTERNATIVES), "top_logprobs"),
}
CHAT = COMMON | {"messages": Field(conversation, "conversation"), "tools": Field(tools, "tools")}
GENERATE = COMMON | {
    "prompt": Field(text, "prompt"),
    "suffix": Field(text, "suffix"),
    "system": Field(text, "system"),
    "raw": Field(flag, "raw"),
    "images": Field(images, "images"),
    "context": Field(unsupported, ""),
}


def inputs(name: str, value: Any) -> list[Input]:
    """A text, or an array of them."""
    return [text(name, item) for item in ([value] if isinstance(value, str) else array(name, value, INPUTS))]


EMBEDDING = {
    "model": Field(model, "model"),
    "input": Field(inputs, "inputs"),
    "prompt": Field(text, "prompt"),
    "options": Field(options, "options"),
    "dimensions": Field(integer(1), "dimensions"),
    "truncate": Field(flag, "truncate"),
}
IGNORED = ("keep_alive", "truncate", "shift")


def read_chat(body: Mapping[str, Any], time_cap: float, identity: Identity | None = None) -> Asked:
    """The body of /api/chat; RequestError 400 names the first field at fault. `identity` where a model is loaded."""
    values = read(body, CHAT, IGNORED, required=("messages",))
    messages, sources = values["conversation"]
    parts = {
        "messages": messages,
        "continue_last": messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1],
        "tools": values.get("tools", ()),
    }
    return _asked(values, time_cap, identity, parts, sources)


def read_generate(body: Mapping[str, Any], time_cap: float, identity: Identity | None = None) -> Asked:
    """The body of /api/generate; RequestError 400 names the first field at fault.

    A prompt that is raw, has a suffix, or is for a model without a chat template reaches the model as it is.
    """
    values = read(body, GENERATE, IGNORED)
    prompt, found = values.get("prompt", ""), values.get("images", ())
    if not prompt:
        raise wrong("prompt", "is empty")
    chats = identity is None or identity.chat
    if values.get("raw") or values.get("suffix") or not chats:
        if found:
            raise wrong("images", "only a chat takes images, and this prompt is no chat", code="unsupported_content")
        before = "" if values.get("raw") or not values.get("system") else values["system"] + "\n"
        parts: dict[str, Any] = {"prompt": before + prompt, "suffix": values.get("suffix") or None}
    else:
        before = [{"role": "system", "content": values["system"]}] if values.get("system") else []
        shown = [{"type": one.kind} for one in found]
        content = [*shown, {"type": "text", "text": prompt}] if shown else prompt
        parts = {"messages": (*before, {"role": "user", "content": content})}
    return _asked(values, time_cap, identity, parts, found)


def is_empty(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for no text: Ollama's way to load a model, or with `keep_alive` 0 to unload it."""
    return not any(body.get(key) for key in ("messages", "prompt", "images"))


def read_embedding(body: Mapping[str, Any], target: str) -> tuple[str | None, list[Input], int | None]:
    """The model, the texts and the wanted dimensions of /api/embed ("input") and /api/embeddings ("prompt")."""
    values = read(body, EMBEDDING, IGNORED, required=(target,))
    asked = values["inputs"] if target == "input" else [values["prompt"]]
    return values.get("model"), asked, values.get("dimensions")


def _asked(
    values: Mapping[str, Any],
    time_cap: float,
    identity: Identity | None,
    parts: Mapping[str, Any],
    found: tuple[Source, ...],
) -> Asked:
    options, most = values.get("options", {}), values.get("options", {}).get("max_tokens")
    if identity and options.get("num_ctx", 0) > identity.context:
        raise wrong(
            "options.num_ctx", f"the context of this slot is {identity.context}", code="context_length_exceeded"
        )
    sampling = {key[9:]: value for key, value in options.items() if key.startswith("sampling.")}
    thinks = values.get("think")
    if values.get("top_logprobs") and not values.get("logprobs"):
        raise wrong("top_logprobs", "needs logprobs: true")
    request = GenerateRequest(
        id=new_id("ollama"),
        sampling=Sampling(**{**DEFAULTS, **sampling}),
        max_tokens=None if identity and most and most > identity.context else most,
        stop=options.get("stop", ()),
        logprobs=values.get("top_logprobs", 0) if values.get("logprobs") else None,
        time_cap=time_cap,
        format=values.get("format"),
        thinking=bool(thinks) if thinks is not None else None,
        effort=thinks if isinstance(thinks, str) else None,
        **parts,
    )
    stream = values.get("stream", True)
    return Asked(request, values.get("model"), stream, found, options=time.monotonic_ns())
