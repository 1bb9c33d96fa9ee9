"""The messages of an Anthropic request, checked and brought to the shape that chat templates take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.runner.media import source
from llmctl.runner.media.source import Source
from llmctl.runner.protocols.checks import flag, text, typed, unknown, wrong

BLOCKS: dict[str, tuple[str, ...]] = {
    "text": ("text", "citations"),
    "image": ("source",),
    "tool_use": ("id", "name", "input", "caller"),
    "tool_result": ("tool_use_id", "content", "is_error"),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
}
"""{type of a content block: its fields}; `type` and `cache_control` may stand in each."""
TAKES = {
    "system": ("text",),
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "tool_result": ("text", "image"),
}
"""{role, or what a block stands in: the blocks it may hold}"""
BETWEEN = {"assistant": ""}
"""{role: what joins its blocks of text}; a model's own go on where the last one ended, others' are paragraphs."""
PARAGRAPH = "\n"


@dataclass(frozen=True)
class Conversation:
    """`messages` as GenerateRequest has them, with the sources of their images. `prefill`: the last one goes on."""

    messages: tuple[dict[str, Any], ...]
    sources: tuple[Source, ...]
    prefill: bool


def system(name: str, value: Any) -> str:
    """The system prompt: a string, or blocks of text."""
    return PARAGRAPH.join(str(part) for part in _texts(name, value, "system"))


def conversation(name: str, value: Any) -> Conversation:
    """A non-empty array of messages; those of one role that follow each other are one."""
    if not typed(name, value, list, "an array"):
        raise wrong(name, "is empty")
    turns: list[dict[str, Any]] = []
    for i, item in enumerate(value):
        for turn in _turns(f"{name}[{i}]", item):
            if turns and turn["role"] == turns[-1]["role"] != "tool":
                _append(turns[-1], turn)
            else:
                turns.append(turn)
    last = turns[-1]
    if last["role"] == "assistant" and "tool_calls" in last:
        raise wrong(f"{name}[{len(value) - 1}]", "a tool_use at the end has no tool_result yet")
    if last["role"] == "assistant" and not any(last["content"]):
        turns.pop()
    if not turns:
        raise wrong(name, "is empty")
    sources = tuple(part for turn in turns for part in turn["content"] if isinstance(part, Source))
    return Conversation(tuple(map(_message, turns)), sources, turns[-1]["role"] == "assistant")


def _turns(at: str, value: Any) -> list[dict[str, Any]]:
    """One message as turns whose content is a list of texts and sources; results of tools come first."""
    for key in typed(at, value, dict, "an object"):
        if key not in ("role", "content"):
            raise unknown(key, ("role", "content"), f"{at}.")
    role = value.get("role")
    if role not in ("user", "assistant", "system"):
        raise wrong(f"{at}.role", "must be user, assistant or system")
    blocks = list(_blocks(f"{at}.content", value.get("content"), role))
    results = [_result(where, block) for where, block in blocks if block["type"] == "tool_result"]
    content = [_part(where, block) for where, block in blocks if block["type"] in ("text", "image")]
    turn: dict[str, Any] = {"role": role, "content": content}
    if thoughts := [text(f"{w}.thinking", b.get("thinking")) for w, b in blocks if b["type"] == "thinking"]:
        turn["reasoning_content"] = "".join(thoughts)
    if calls := [_call(where, block) for where, block in blocks if block["type"] == "tool_use"]:
        turn["tool_calls"] = calls
    return [*results, turn] if content or not results else results


def _blocks(at: str, value: Any, inside: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The blocks of a content, each with its place, its type and the names of its fields checked."""
    if isinstance(value, str):
        return [(at, {"type": "text", "text": value})]
    blocks = [(f"{at}[{i}]", block) for i, block in enumerate(typed(at, value, list, "a string or an array of blocks"))]
    for where, block in blocks:
        kind = typed(where, block, dict, "an object").get("type")
        if kind not in TAKES[inside]:
            raise wrong(f"{where}.type", f"must be one of {', '.join(TAKES[inside])} here", code="unsupported_content")
        for key in block:
            if key not in ("type", "cache_control", *BLOCKS[kind]):
                raise unknown(key, BLOCKS[kind], f"{where}.")
    return blocks


def _part(at: str, block: Mapping[str, Any]) -> str | Source:
    if block["type"] == "text":
        return text(f"{at}.text", block.get("text"))
    return _image(f"{at}.source", block.get("source"))


def _image(at: str, value: Any) -> Source:
    """{"type": "base64", "media_type", "data"} or {"type": "url", "url"}."""
    how = typed(at, value, dict, "an object").get("type")
    if how == "base64":
        return source.of_base64(f"{at}.data", value.get("data"), value.get("media_type"))
    if how == "url":
        return source.of_url(f"{at}.url", value.get("url"))
    raise wrong(f"{at}.type", "must be base64 or url", code="unsupported_content")


def _texts(at: str, value: Any, inside: str) -> list[str | Source]:
    return [_part(where, block) for where, block in _blocks(at, value, inside)]


def _call(at: str, block: Mapping[str, Any]) -> dict[str, Any]:
    function = {
        "name": text(f"{at}.name", block.get("name")),
        "arguments": typed(f"{at}.input", block.get("input"), dict, "an object"),
    }
    return {"id": text(f"{at}.id", block.get("id")), "type": "function", "function": function}


def _result(at: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """What a tool answered; templates know no failed result, so that its text says so."""
    id = text(f"{at}.tool_use_id", block.get("tool_use_id"))
    value = block.get("content")
    content = [] if value is None else _texts(f"{at}.content", value, "tool_result")
    if flag(f"{at}.is_error", block.get("is_error") or False):
        content.insert(0, "Error:")
    return {"role": "tool", "tool_call_id": id, "content": content}


def _append(turn: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Make `more` a part of the turn before it, which has the same role."""
    for key, value in more.items():
        if key != "role":
            turn[key] = turn[key] + value if key in turn else value


def _message(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn with its content as text; as parts where there are images."""
    content, between = turn["content"], BETWEEN.get(turn["role"], PARAGRAPH)
    if not any(isinstance(part, Source) for part in content):
        return {**turn, "content": between.join(content)}
    parts = [{"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind} for part in content]
    return {**turn, "content": parts}
