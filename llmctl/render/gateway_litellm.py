"""Text of `llmctl gateway render …`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View


def litellm(data: Mapping[str, Any]) -> str:
    """The configuration itself, so that it can go into a file; what it does not say as comments at its end."""
    notes = [f"# {note}" for note in data["notes"]]
    if data["file"]:
        return "\n".join([f"wrote {data['file']}", *notes])
    return "\n".join([data["text"].rstrip("\n"), *notes])


VIEWS: dict[str, View] = {"gateway render": litellm}
