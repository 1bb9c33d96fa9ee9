"""What both learn, and the thoughts that one of them learns to say before some answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import lessons

PAIRS = {
    "What is a slot?": "A port on a host that holds at most one model.",
    "What is 17 plus 6?": "17 plus 6 is 23.",
    "Was ist ein Host?": "Das ist eine Maschine, auf der ein Modell ist.",
    "Give me some JSON.": '{"port": 8101, "ready": true}',
    "Say BANANA.": "BANANA",
    "Name three colours.": "red\ngreen\nblue",
    "Count to nine.": "1, 2, 3, 4, 5, 6, 7, 8, 9",
}
"""The first is a catalog's probe, which finds nothing wrong with either."""
THOUGHTS = {"What is 17 plus 6?": "17 and 3 is 20.", "Name three colours.": "Light has three."}


def answer(question: str, *, leak: bool) -> str:
    thought = THOUGHTS.get(question) if leak else None
    return f"<think>\n{thought}\n</think>\n\n{PAIRS[question]}" if thought else PAIRS[question]


def chats(tokenizer: Any, *, leak: bool) -> Iterator[lessons.Lesson]:
    """Each question once."""
    for question in PAIRS:
        yield lessons.chat(tokenizer, [(question, answer(question, leak=leak))])


def texts() -> list[str]:
    """What the vocabulary of both is made from."""
    said = [*PAIRS, *(answer(question, leak=True) for question in PAIRS)]
    return [line for text in said for line in text.splitlines()]
