"""The messages of an OpenAI chat, brought to the shape of GenerateRequest; their images as sources beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llmctl.domain import IMAGE, TEXT
from llmctl.errors import RequestError
from llmctl.runner.media import source
from llmctl.runner.media.source import Source
from llmctl.runner.protocols.checks import Field, choice, object_, read, string, text, typed, unsupported, wrong
from llmctl.runner.protocols.openai_tools import ID_LENGTH, calls
from llmctl.strict_json import kind

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
SEEING = ("user", "tool")  # whose messages may have images
NAME_LENGTH = 256

Message = dict[str, Any]
Content = str | list[dict[str, Any]]


class Conversation(NamedTuple):
    """Checked messages, and where their images come from, in order."""

    messages: tuple[Message, ...]
    sources: tuple[Source, ...]


def function_call(name: str, value: Any) -> None:
    """The older shape of a tool call."""
    raise wrong(name, "is not taken; send tool_calls", code="unsupported_field")


MESSAGE = {
    "role": Field(choice(*ROLES), "role"),
    "content": Field(lambda name, value: value, "content"),
    "name": Field(string(NAME_LENGTH), "name"),
    "tool_call_id": Field(string(ID_LENGTH), "tool_call_id"),
    "tool_calls": Field(lambda name, value: calls(name, value) if value != [] else None, "tool_calls"),
    "reasoning_content": Field(text, "reasoning_content"),
    "reasoning": Field(text, "reasoning_content"),
    "function_call": Field(function_call, ""),
    "refusal": Field(unsupported, ""),
    "audio": Field(unsupported, ""),
    "annotations": Field(unsupported, ""),
}


def conversation(name: str, value: Any) -> Conversation:
    """A non-empty array of messages."""
    if not typed(name, value, list, "an array"):
        raise wrong(name, "is empty")
    sources: list[Source] = []
    return Conversation(tuple(_message(f"{name}[{i}]", item, sources) for i, item in enumerate(value)), tuple(sources))


def _message(at: str, value: Any, sources: list[Source]) -> Message:
    given = read(object_(at, value), MESSAGE, ("parsed",), at=at, required=("role",))
    role = given["role"]
    message = {"role": ROLES[role], "content": content(f"{at}.content", given.get("content"), role, sources)}
    if role == "tool" and "tool_call_id" not in given:
        raise wrong(f"{at}.tool_call_id", "is missing: whose answer is it?", code="missing_field")
    for key in ("tool_calls", "reasoning_content"):
        if given.get(key) and role != "assistant":
            raise wrong(f"{at}.{key}", "is for an assistant's message")
    for key in ("name", "tool_call_id", "tool_calls", "reasoning_content"):
        if given.get(key):
            message[key] = given[key]
    return message


def content(at: str, value: Any, role: str, sources: list[Source]) -> Content:
    """A message's content: a string, or parts where there is an image among them; its sources are added."""
    if isinstance(value, str):
        return value
    if value is None and role == "assistant":
        return ""
    if not isinstance(value, list) or not value:
        shown = "an empty array" if value == [] else kind(value)
        raise wrong(at, f"must be a string or an array of parts, not {shown}", code="invalid_type")
    parts = [_part(f"{at}[{i}]", object_(f"{at}[{i}]", part), role, sources) for i, part in enumerate(value)]
    return joined(parts)


def joined(parts: list[dict[str, Any]]) -> Content:
    """Parts that are all text as one string."""
    if any(part["type"] != TEXT for part in parts):
        return parts
    return "".join(part["text"] for part in parts)


def _part(at: str, part: Mapping[str, Any], role: str, sources: list[Source]) -> dict[str, Any]:
    type_ = part.get("type")
    if type_ == "text":
        given = read(part, {"type": Field(text, ""), "text": Field(text, "text")}, at=at, required=("text",))
        return {"type": TEXT, "text": given["text"]}
    if type_ == "image_url" and role in SEEING:
        known = {"type": Field(text, ""), "image_url": Field(_address, "source")}
        given = read(part, known, at=at, required=("image_url",))
        sources.append(given["source"])
        return {"type": IMAGE}
    raise no_such_part(at, type_, role)


ADDRESS = {
    "url": Field(source.of_url, "source"),
    "detail": Field(choice("auto", "low", "high"), "detail"),  # the model's processor has one resolution
}


def _address(at: str, value: Any) -> Source:
    """{"url": data: or http(s), "detail"}, or the URL itself."""
    if isinstance(value, str):
        return source.of_url(at, value)
    found: Source = read(object_(at, value), ADDRESS, at=at, required=("url",))["source"]
    return found


def no_such_part(at: str, type_: Any, role: str) -> RequestError:
    """The refusal of a part of another modality, or of none."""
    if type_ in ("image_url", "input_image"):
        return wrong(at, f"a message of role {role} has no images", code="unsupported_content")
    if type_ in ("input_audio", "audio_url", "video_url", "file", "input_file"):
        return wrong(at, f"{type_} is not supported by this slot", code="unsupported_content")
    return wrong(f"{at}.type", "must be text or image_url")


SCHEMA: Mapping[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["system", "user", "assistant"]},
            "content": {"type": "string"},
        },
    },
}
