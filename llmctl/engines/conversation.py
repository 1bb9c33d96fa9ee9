"""A conversation as a chat template is to see it: its tools, its last message when that goes on, ids that it takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmctl.errors import RequestError

HERE = "\uf8ff"
"""Stands behind the text of a last message that goes on, while the template is rendered."""
NINE = "length 9"
"""Mistral's templates complain in these words about other ids of calls."""

Messages = list[dict[str, Any]]
Render = Callable[..., str]
"""render(messages, tools=list or None, add_generation_prompt=bool, **variables) → text"""


def render(
    template: Render,
    source: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    continue_last: bool,
    variables: Mapping[str, Any],
) -> str:
    """The text of a conversation; `source` is the template's. RequestError for what the template does not take."""
    told = [dict(message) for message in messages]
    if NINE in source:
        told = [with_short_ids(message) for message in told]
    functions = [{"type": "function", "function": dict(tool)} for tool in tools] or None
    if continue_last:
        told[-1] = {**told[-1], "content": appended(told[-1].get("content"), HERE)}
    options = {**variables, "tools": functions, "add_generation_prompt": not continue_last}
    if "tools" in source:
        text = template(told, **options)
    else:
        text = in_words(template, told, tools, {**options, "tools": None})
    if not continue_last:
        return text
    if HERE not in text:
        raise RequestError("the model's chat template does not let the last message go on", param="messages")
    return text[: text.rindex(HERE)]


def in_words(template: Render, messages: Messages, tools: Sequence[Mapping[str, Any]], options: dict[str, Any]) -> str:
    """A conversation for a template that knows no tools: they are told in the system message, or in the first one."""
    told = [in_text(message) for message in messages]
    if not tools:
        return template(told, **options)
    words = instructions(tools)
    if told and told[0].get("role") == "system":
        return template([prefixed(told[0], "", "\n\n" + words), *told[1:]], **options)
    try:
        return template([{"role": "system", "content": words}, *told], **options)
    except RequestError:
        return template([prefixed(told[0], words + "\n\n", ""), *told[1:]], **options)


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a model is told of its tools in plain words."""
    return "\n".join(
        [
            "You can call tools. To call one, answer with nothing but a JSON object like this:",
            '{"name": "the tool\'s name", "arguments": {"the parameter\'s name": "its value"}}',
            "The tools, one a line:",
            *(json.dumps(dict(tool), ensure_ascii=False) for tool in tools),
        ]
    )


def in_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without tools: calls as the JSON that they were, a result as the user's."""
    plain = {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id")}
    if message.get("role") == "tool":
        return {"role": "user", "content": f"The tool answered: {message.get('content') or ''}"}
    if calls := message.get("tool_calls"):
        said = [
            str(message.get("content") or ""),
            *(json.dumps(call["function"], ensure_ascii=False) for call in calls),
        ]
        plain["content"] = "\n".join(filter(None, said))
    return plain


def appended(content: Any, text: str) -> Any:
    """A message's content with more text behind it."""
    if isinstance(content, list | tuple):
        return [*content, {"type": "text", "text": text}]
    return (content or "") + text


def prefixed(message: Mapping[str, Any], before: str, behind: str) -> dict[str, Any]:
    """A message with more text around its content."""
    content = message.get("content")
    if isinstance(content, list | tuple):
        parts = [{"type": "text", "text": before}] if before else []
        return {**message, "content": [*parts, *content, *([{"type": "text", "text": behind}] if behind else [])]}
    return {**message, "content": before + (content or "") + behind}


def with_short_ids(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose calls' ids have nine letters and digits; equal ids stay equal."""
    changed = dict(message)
    if message.get("tool_call_id"):
        changed["tool_call_id"] = short(message["tool_call_id"])
    if message.get("tool_calls"):
        changed["tool_calls"] = [{**call, "id": short(call.get("id") or "")} for call in message["tool_calls"]]
    return changed


def short(id: str) -> str:
    return id if len(id) == 9 and id.isalnum() else hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:9]
