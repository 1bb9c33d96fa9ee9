"""The messages of an OpenAI chat, checked and brought to {"role", "content", "name"?} with plain text content."""

from __future__ import annotations

from typing import Any

from llmctl.errors import RequestError
from llmctl.runner.protocols.checks import typed, unknown, wrong
from llmctl.strict_json import kind

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
TAKEN = ("role", "content", "name", "tool_call_id")
EMPTY_ONLY = ("tool_calls", "function_call", "refusal", "audio", "annotations")  # SDKs send back what they got
IGNORED = ("reasoning_content",)


def messages(name: str, value: Any) -> tuple[dict[str, str], ...]:
    """A non-empty array of messages."""
    if not typed(name, value, list, "an array"):
        raise wrong(name, "is empty")
    return tuple(_message(f"{name}[{i}]", item) for i, item in enumerate(value))


def _message(at: str, value: Any) -> dict[str, str]:
    for key, given in typed(at, value, dict, "an object").items():
        if key in EMPTY_ONLY and given:
            raise wrong(f"{at}.{key}", "is not supported yet", code="unsupported_field")
        if key not in TAKEN + EMPTY_ONLY + IGNORED:
            raise unknown(key, TAKEN, f"{at}.")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise wrong(f"{at}.role", f"must be one of {', '.join(ROLES)}")
    message = {"role": ROLES[role], "content": _content(f"{at}.content", value.get("content"), role)}
    for key in ("name", "tool_call_id"):
        if value.get(key) is not None:
            message[key] = typed(f"{at}.{key}", value[key], str, "a string")
    return message


def _content(at: str, value: Any, role: str) -> str:
    if isinstance(value, str):
        return value
    if value is None and role == "assistant":
        return ""
    if not isinstance(value, list) or not value:
        raise wrong(at, f"must be a string or an array of text parts, not {_what(value)}", code="invalid_type")
    return "".join(_part(f"{at}[{i}]", part) for i, part in enumerate(value))


def _part(at: str, part: Any) -> str:
    type_ = typed(at, part, dict, "an object").get("type")
    if type_ != "text":
        raise _no_such_part(at, type_)
    for key in part:
        if key not in ("type", "text"):
            raise unknown(key, ("type", "text"), f"{at}.")
    return str(typed(f"{at}.text", part.get("text"), str, "a string"))


def _no_such_part(at: str, type_: Any) -> RequestError:
    """The refusal of an image, a sound, a file; names it when it is one."""
    if type_ in ("image_url", "input_audio", "file"):
        return wrong(at, f"{type_} is not supported by this slot", code="unsupported_content")
    return wrong(f"{at}.type", 'must be "text"')


def _what(value: Any) -> str:
    return "an empty array" if value == [] else kind(value)
