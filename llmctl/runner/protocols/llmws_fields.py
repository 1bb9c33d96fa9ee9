"""What an `inference` message of llmws may hold, and the request that it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from llmctl.domain import IMAGE, TEXT, GenerateRequest, Identity, Sampling
from llmctl.runner.media.source import Source, of_llmws
from llmctl.runner.protocols.asked import Asked, new_id
from llmctl.runner.protocols.checks import Field, flag, integer, object_, read, text, typed, wrong
from llmctl.runner.protocols.openai_fields import SAMPLING

LEGACY = re.compile(r"<\|(system|user|assistant)\|>(.*?)(?:<\|end\|>|\Z)", re.DOTALL)
IMAGES = 64  # of one message; how many are taken, the slot's own policy says

CONFIG: dict[str, Field] = SAMPLING | {
    "max_tokens": Field(integer(1), "max_tokens"),
    "max_new_tokens": Field(integer(1), "max_tokens"),
    "do_sample": Field(flag, "do_sample"),
    "enable_thinking": Field(flag, "thinking"),
}


class Turns(NamedTuple):
    """A prompt's turns as (role, text), and its images, which belong to the last one."""

    turns: Sequence[tuple[str, str]]
    images: tuple[Source, ...] = ()


def images(name: str, value: Any) -> tuple[Source, ...]:
    """One image or an array of them."""
    items = value if isinstance(value, list) else [value]
    if len(items) > IMAGES:
        raise wrong(name, f"at most {IMAGES} are taken", code="too_many_images")
    return tuple(of_llmws(f"{name}[{i}]", item) for i, item in enumerate(items))


def prompt(name: str, value: Any) -> Turns:
    """{"system", "user", "images"?}, or all turns in one string."""
    if isinstance(value, str):
        return Turns(_legacy(name, value))
    given = read(typed(name, value, dict, "an object or a string"), PROMPT, at=name, required=("user",))
    system = [("system", given["system"])] if given.get("system") else []
    return Turns([*system, ("user", given["user"])], given.get("images", ()))


def _legacy(name: str, value: str) -> list[tuple[str, str]]:
    """`<|system|>…<|end|><|user|>…<|end|>`; a string without such marks is what the user says."""
    if not value.lstrip().startswith(("<|system|>", "<|user|>")):
        return [("user", value)]
    if LEGACY.sub("", value).strip():
        raise wrong(name, "has text between its turns")
    turns = LEGACY.findall(value)
    if turns[-1] == ("assistant", ""):
        del turns[-1]
    if not turns or turns[-1][0] != "user":
        raise wrong(name, "must end with a turn of the user")
    return turns


PROMPT: dict[str, Field] = {
    "system": Field(text, "system"),
    "user": Field(text, "user"),
    "images": Field(images, "images"),
}
INFERENCE: dict[str, Field] = {
    "type": Field(text, ""),
    "prompt": Field(prompt, "prompt"),
    "images": Field(images, "images"),
    "config": Field(object_, "config"),
}
IGNORED = ("session_id", "request_id", "stream")


def read_config(value: Mapping[str, Any], name: str, *, ignored: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a `config`; RequestError names the first at fault."""
    return read(value, CONFIG, ignored, at=name)


def read_inference(
    body: Mapping[str, Any], settings: Mapping[str, Any], model: Identity | None, time_cap: float
) -> Asked:
    """An `inference` message. `settings` are those of the connection, which the message's own replace.

    More tokens than the context of `model` are as many as it has.
    """
    given = read(body, INFERENCE, IGNORED, required=("prompt",))
    values = {**settings, **read_config(given.get("config", {}), "config")}
    turns, sources = given["prompt"]
    sources += given.get("images", ())
    if not turns[-1][1].strip() and not sources:
        raise wrong("prompt.user", "is empty")
    if values.pop("do_sample", True) is False:
        values["sampling.temperature"] = 0.0
    if model and "max_tokens" in values:
        values["max_tokens"] = min(values["max_tokens"], model.context)
    sampling = {key.removeprefix("sampling."): values.pop(key) for key in list(values) if key.startswith("sampling.")}
    messages: list[dict[str, Any]] = [{"role": role, "content": said} for role, said in turns]
    if sources:
        said = [{"type": TEXT, "text": turns[-1][1]}] if turns[-1][1] else []
        messages[-1]["content"] = [{"type": IMAGE}] * len(sources) + said
    request = GenerateRequest(new_id("llmws"), tuple(messages), sampling=Sampling(**sampling), time_cap=time_cap)
    return Asked(replace(request, **values), stream=True, sources=sources, options=model and model.context)
