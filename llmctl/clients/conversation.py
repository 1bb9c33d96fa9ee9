"""What was said so far and how answers are made: kept in memory, written to a file, read from one strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmctl import files, strict_json
from llmctl.clients import settings
from llmctl.errors import LlmctlError, UsageError

VERSION = 1
LIMIT = 512 * 2**20
ROLES = ("system", "user", "assistant")
DATA = "data:image/"


@dataclass
class Conversation:
    """Messages in OpenAI's shape, the system's first where there is one, and the settings (see `settings.py`)."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    model: str | None = None

    @property
    def system(self) -> str | None:
        return self.messages[0]["content"] if self.messages and self.messages[0]["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[self.system is not None :]
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def clear(self) -> None:
        """Forget what was said; the system message stays."""
        del self.messages[self.system is not None :]

    def asked(self, text: str, pictures: Sequence[str] = ()) -> list[dict[str, Any]]:
        """The messages with a question more; `pictures` are data URLs."""
        return [*self.messages, question(text, pictures)]

    def save(self, path: Path) -> None:
        """Write it, for its owner alone; a file that is no chat is never overwritten."""
        path = path.expanduser()
        if path.exists():
            try:
                load(path)
            except UsageError:
                raise UsageError(f"{path} is something else, and is not overwritten") from None
        self.write(path)

    def write(self, path: Path) -> None:
        """Write it over what is there."""
        data = {"llmctl": "chat", "version": VERSION, "model": self.model, "settings": self.settings}
        text = json.dumps({**data, "messages": self.messages}, indent=1, ensure_ascii=False)
        try:
            files.write_text(path, text + "\n", files.private)
        except OSError as error:
            raise LlmctlError(f"{path} cannot be written: {error.strerror}") from None


def question(text: str, pictures: Sequence[str] = ()) -> dict[str, Any]:
    """A message of the user; its images come before its text."""
    if not pictures:
        return {"role": "user", "content": text}
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def load(path: Path) -> Conversation:
    """What `save` wrote, every field checked; UsageError names the file and what is wrong in it."""
    path = path.expanduser()
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a name of a file"
        raise UsageError(f"{path} cannot be read: {why}") from None
    try:
        if len(data) > LIMIT:
            raise ValueError(f"is larger than {LIMIT // 2**20} MiB")
        return _conversation(strict_json.loads(data, "the file"))
    except UsageError as error:
        raise UsageError(f"{path}: settings: {error.message}", hint=error.hint) from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def _conversation(found: Any) -> Conversation:
    if not isinstance(found, dict) or found.get("llmctl") != "chat":
        raise ValueError("is no saved chat")
    if found.get("version") != VERSION:
        raise ValueError(f"is of version {str(found.get('version'))[:20]}, and this llmctl reads {VERSION}")
    _only(found, "the file", {"llmctl", "version", "model", "settings", "messages"})
    model, values, messages = found.get("model"), found.get("settings"), found.get("messages")
    if not (model is None or isinstance(model, str)):
        raise ValueError("model must be a string or null")
    if not isinstance(values, dict):
        raise ValueError("settings must be an object")
    if not isinstance(messages, list):
        raise ValueError("messages must be an array")
    for at, message in enumerate(messages):
        _check(f"messages[{at}]", message, at)
    return Conversation(messages, settings.all_of(values), model)


def _check(at: str, message: Any, index: int) -> None:
    _only(message, at, {"role", "content"})
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or (role == "system" and index > 0):
        raise ValueError(f"{at}.role must be user or assistant, or system in the first")
    if isinstance(content, str):
        return
    if role != "user" or not isinstance(content, list) or not content:
        raise ValueError(f"{at}.content must be a string{', or a list of parts' if role == 'user' else ''}")
    for n, part in enumerate(content):
        _check_part(f"{at}.content[{n}]", part)


def _check_part(at: str, part: Any) -> None:
    _only(part, at, {"type", "text", "image_url"})
    url = part.get("image_url")
    if part.get("type") == "text" and isinstance(part.get("text"), str) and url is None:
        return
    image = isinstance(url, dict) and set(url) == {"url"} and isinstance(url["url"], str)
    if part.get("type") != "image_url" or not image or "text" in part or not url["url"].startswith(DATA):
        raise ValueError(f"{at} must be a text, or an image as a data URL")


def _only(value: Any, at: str, names: set[str]) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{at} must be an object")
    if more := set(value) - names:
        raise ValueError(f"{at} has an unknown key {min(more)[:60]!a}")
