"""The messages of an Ollama chat, checked and brought to the shape that chat templates take."""

from __future__ import annotations

from typing import Any

from llmctl.runner.media.source import Source, of_data
from llmctl.runner.protocols.checks import Field, array, choice, object_, read, string, text, typed
from llmctl.runner.protocols.openai_tools import CALLS, ID_LENGTH

MESSAGES = 100_000
ROLES = ("system", "user", "assistant", "tool")


def images(name: str, value: Any) -> tuple[Source, ...]:
    """Images in base64."""
    return tuple(of_data(f"{name}[{i}]", item) for i, item in enumerate(typed(name, value, list, "an array")))


def calls(name: str, value: Any) -> list[dict[str, Any]]:
    """Calls of tools, with an id where the client kept it."""
    return [_call(f"{name}[{i}]", item) for i, item in enumerate(array(name, value, CALLS))] if value != [] else []


def _call(at: str, value: Any) -> dict[str, Any]:
    found = read(object_(at, value), CALL, ("type",), at=at, required=("function",))
    inside = read(found["function"], CALLED, ("index",), at=f"{at}.function", required=("name",))
    function = {"name": inside["name"], "arguments": inside.get("arguments", {})}
    return {"id": found.get("id", ""), "type": "function", "function": function}


CALL = {"id": Field(string(ID_LENGTH, 0), "id"), "function": Field(object_, "function")}
CALLED = {"name": Field(string(ID_LENGTH), "name"), "arguments": Field(object_, "arguments")}
MESSAGE = {
    "role": Field(choice(*ROLES), "role"),
    "content": Field(text, "content"),
    "images": Field(images, "images"),
    "thinking": Field(text, "reasoning_content"),
    "tool_calls": Field(calls, "tool_calls"),
    "tool_name": Field(text, "name"),
    "tool_call_id": Field(string(ID_LENGTH, 0), "tool_call_id"),
}


def conversation(name: str, value: Any) -> tuple[tuple[dict[str, Any], ...], tuple[Source, ...]]:
    """The messages, and the sources of their images. Calls and their results get ids: Ollama's clients send none."""
    found: list[dict[str, Any]] = []
    sources: list[Source] = []
    waiting: list[tuple[str, str]] = []  # ids and names of calls without a result
    for i, item in enumerate(array(name, value, MESSAGES)):
        values = read(object_(f"{name}[{i}]", item), MESSAGE, at=f"{name}[{i}]", required=("role",))
        shown = values.pop("images", ())
        sources += shown
        message = {"content": "", **values}
        if shown:
            parts = [{"type": one.kind} for one in shown]
            message["content"] = [*parts, {"type": "text", "text": message["content"]}]
        for call in message.get("tool_calls", ()):
            call["id"] = call["id"] or f"call_{i}_{len(waiting)}"
            waiting.append((call["id"], call["function"]["name"]))
        if message["role"] == "tool":
            message["tool_call_id"] = _answered(message, waiting)
        if not message.get("tool_calls", True):
            del message["tool_calls"]
        found.append(message)
    return tuple(found), tuple(sources)


def _answered(message: dict[str, Any], waiting: list[tuple[str, str]]) -> str:
    """The id of the call that a result is for: as it says, else the first of its tool's name, else the first."""
    id, name = message.get("tool_call_id"), message.get("name")
    of_name = [one for one in waiting if one[1] == name] if name else []
    mine = [one for one in waiting if one[0] == id] if id else (of_name or waiting)[:1]
    for one in mine:
        waiting.remove(one)
    return id or (mine[0][0] if mine else "call")
