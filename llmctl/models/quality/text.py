"""The fixed token set's text: prose in several languages, code, numbers, and a chat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmctl import tables

FILE = Path(__file__).with_name("passages.toml")


@dataclass(frozen=True)
class Text:
    """`passages` are read on their own, `chat` is (role, content) for the model's template."""

    passages: tuple[str, ...]
    chat: tuple[tuple[str, str], ...]


def read() -> Text:
    """passages.toml as it lies beside this file."""
    root = tables.read(FILE)
    chat = tuple((turn.text("role", ""), turn.text("content", "")) for turn in root.tables("chat"))
    return Text(tuple(passage.strip() for passage in root.texts("passages")), chat)
