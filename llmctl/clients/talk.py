"""What every client of a model has in common: what it is asked, the pieces that come, and the answer they make."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

Message = Mapping[str, Any]
"""A message in OpenAI's shape; its content is text, or a list of parts where images go with it."""


@dataclass(frozen=True)
class Piece:
    """New text of an answer, or of what the model thinks before it."""

    text: str
    reasoning: bool = False


@dataclass(frozen=True)
class Said:
    """A whole answer. `usage` is as the server counted it; `seconds` from the question to the end."""

    model: str | None
    answer: str
    reasoning: str
    finish: str | None
    usage: Mapping[str, Any] | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Talk = Generator[Piece, None, Said]


class Client(Protocol):
    """One model to talk to. Every method raises Unreachable, or the server's own error."""

    def ask(self, messages: Sequence[Message], settings: Mapping[str, Any]) -> Talk:
        """The pieces of the answer as they come; closing it ends the answer there. `settings` as in `settings.py`."""

    def models(self) -> list[str]:
        """The names that it may be asked for."""

    def close(self) -> None:
        """End what it holds open."""


def sound(text: object) -> str:
    """The text of a piece, whole characters only: half a surrogate pair cannot be printed, or sent again."""
    if not isinstance(text, str):
        raise TypeError(f"text was expected, not {type(text).__name__}")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def plain(text: str) -> str:
    """What a server says of itself, on one line: an error of it cannot drive the terminal that shows it."""
    return "".join(c if c.isprintable() else " " for c in sound(text))[:2000]
