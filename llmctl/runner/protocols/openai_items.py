"""The input items of OpenAI's responses, as the messages of a GenerateRequest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.domain import IMAGE, TEXT
from llmctl.runner.media import source
from llmctl.runner.media.source import Source
from llmctl.runner.protocols.checks import Field, array, choice, object_, read, string, text, typed, unsupported, wrong
from llmctl.runner.protocols.openai_messages import (
    ROLES,
    SEEING,
    Content,
    Conversation,
    Message,
    joined,
    no_such_part,
)
from llmctl.runner.protocols.openai_tools import ID_LENGTH, call

ITEMS = 4096


def conversation(name: str, value: Any) -> Conversation:
    """A string, which is the user's, or an array of items."""
    if isinstance(value, str):
        if not value:
            raise wrong(name, "is empty")
        return Conversation(({"role": "user", "content": value},), ())
    turns = Turns()
    for i, item in enumerate(array(name, typed(name, value, list, "a string or an array"), ITEMS)):
        turns.add(f"{name}[{i}]", object_(f"{name}[{i}]", item))
    if not turns.messages:
        raise wrong(name, "has no message")
    return Conversation(tuple(turns.messages), tuple(turns.sources))


ROLE = choice("user", "assistant", "system", "developer")
OF_ALL = ("type", "id", "status")  # what every item has that came out of an answer; SDKs add what they parsed
MESSAGE = {"role": Field(ROLE, "role"), "content": Field(lambda name, value: value, "content")}
CALL = {"call_id": Field(string(ID_LENGTH), "id")}
OUTPUT = CALL | {"output": Field(lambda name, value: value, "content")}
REASONING = {
    "summary": Field(lambda name, value: said(name, value, "summary_text"), "summary"),
    "content": Field(lambda name, value: said(name, value, "reasoning_text"), "content"),
}


def said(name: str, value: Any, type_: str) -> str:
    """The text of a reasoning item's parts."""
    parts = [object_(f"{name}[{i}]", part) for i, part in enumerate(typed(name, value, list, "an array"))]
    field = {"type": Field(choice(type_), "type"), "text": Field(text, "text")}
    return "".join(read(part, field, at=f"{name}[{i}]", required=field)["text"] for i, part in enumerate(parts))


class Turns:
    """Messages put together from items: reasoning, text and calls that follow one another are one assistant's."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.sources: list[Source] = []
        self._reasoning = ""

    def add(self, at: str, item: dict[str, Any]) -> None:
        """One item; RequestError when it is of no kind that is taken."""
        type_ = item.get("type", "message")
        if type_ == "message":
            self._message(at, item)
        elif type_ == "function_call":
            given = {key: value for key, value in item.items() if key in ("name", "arguments")}
            rest = {key: value for key, value in item.items() if key not in given}
            id = read(rest, CALL, (*OF_ALL, "parsed_arguments"), at=at, required=("call_id",))["id"]
            self._assistant().setdefault("tool_calls", []).append(call(id, at, given))
        elif type_ == "function_call_output":
            given = read(item, OUTPUT, OF_ALL, at=at, required=("call_id", "output"))
            content = self._content(f"{at}.output", given["content"], "tool")
            self.messages.append({"role": "tool", "content": content, "tool_call_id": given["id"]})
        elif type_ == "reasoning":
            given = read(item, REASONING, (*OF_ALL, "encrypted_content"), at=at)
            self._reasoning = given.get("content") or given.get("summary", "")
        else:
            raise wrong(f"{at}.type", "is not supported by this slot", code="unsupported_content")

    def _message(self, at: str, item: dict[str, Any]) -> None:
        given = read(item, MESSAGE, (*OF_ALL, "phase"), at=at, required=("role", "content"))
        role = given["role"]
        content = self._content(f"{at}.content", given["content"], role)
        if role != "assistant":
            self.messages.append({"role": ROLES[role], "content": content})
        elif self._last_is_silent():
            self._assistant()["content"] = content
        else:
            self.messages.append({"role": role, "content": content})
            self._assistant()

    def _last_is_silent(self) -> bool:
        last = self.messages[-1] if self.messages else {}
        return last.get("role") == "assistant" and not last["content"]

    def _assistant(self) -> Message:
        """The assistant's message that goes on, with what was thought before it."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        message = self.messages[-1]
        if self._reasoning:
            message["reasoning_content"] = message.get("reasoning_content", "") + self._reasoning
            self._reasoning = ""
        return message

    def _content(self, at: str, value: Any, role: str) -> Content:
        if isinstance(value, str):
            return value
        parts = array(at, typed(at, value, list, "a string or an array of parts"), ITEMS)
        return joined([self._part(f"{at}[{i}]", object_(f"{at}[{i}]", part), role) for i, part in enumerate(parts)])

    def _part(self, at: str, part: Mapping[str, Any], role: str) -> dict[str, Any]:
        type_ = part.get("type")
        if type_ in ("input_text", "output_text", "text"):
            given = read(part, {"text": Field(text, "text")}, TEXT_PART, at=at, required=("text",))
            return {"type": TEXT, "text": given["text"]}
        if type_ == "input_image" and role in SEEING:
            given = read(part, IMAGE_PART, ("type",), at=at, required=("image_url",))
            self.sources.append(given["source"])
            return {"type": IMAGE}
        raise no_such_part(at, type_, role)


TEXT_PART = ("type", "annotations", "logprobs", "parsed")
IMAGE_PART = {
    "image_url": Field(source.of_url, "source"),
    "detail": Field(choice("auto", "low", "high", "original"), "detail"),
    "file_id": Field(unsupported, ""),
}
