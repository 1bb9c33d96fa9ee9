"""The fixed token set's text: prose in several languages, code, numbers, and chats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmctl import tables

FILE = Path(__file__).with_name("passages.toml")


@dataclass(frozen=True)
class Text:
    """`passages` are read each on its own; a chat is what user and assistant say in turn, for the model's template."""

    passages: tuple[str, ...]
    chats: tuple[tuple[str, ...], ...]


def read() -> Text:
    """passages.toml as it lies beside this file."""
    root = tables.read(FILE)
    chats = tuple(tuple(chat) for chat in root.data["chats"])
    return Text(tuple(passage.strip() for passage in root.texts("passages")), chats)
