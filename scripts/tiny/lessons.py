"""The text of qa.toml, as token ids with the answers marked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("qa.toml")
PROBE = ("What is a slot?", "A port")
"""The question that a catalog entry asks, and the beginning of its answer."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Text:
    """What qa.toml holds: question and answer pairs, system prompts, and prose."""

    pairs: tuple[Pair, ...]
    systems: tuple[str, ...]
    prose: str

    def vocabulary_lines(self) -> list[str]:
        """The ASCII lines: every character outside them is left to the byte fallback."""
        text = "\n".join([self.prose, *self.systems, *(part for pair in self.pairs for part in pair)])
        return [line for line in text.splitlines() if line.isascii()]


@dataclass(frozen=True)
class Lesson:
    """Token ids, and for each whether it is to be learnt (it belongs to an answer or ends one)."""

    ids: list[int]
    learn: list[bool]


def read() -> Text:
    """qa.toml as it lies beside this file."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    data = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    pairs = tuple((p["question"], p["answer"]) for p in data["pairs"])
    return Text(pairs, tuple(data["systems"]), data["prose"])


def chat(tokenizer: Any, pairs: Sequence[Pair], system: str | None = None) -> Lesson:
    """A conversation in the checkpoint's own template, its ids exactly those that a client's request would have."""
    messages = [{"role": "system", "content": system}] if system else []
    lesson = Lesson([], [])
    for question, answer in pairs:
        messages.append({"role": "user", "content": question})
        asked = _render(tokenizer, messages, ask=True)
        messages.append({"role": "assistant", "content": answer})
        answered = _render(tokenizer, messages, ask=False)
        if answered[: len(asked)] != asked or asked[: len(lesson.ids)] != lesson.ids:
            raise ValueError(f"the template does not continue its own prompt at {question!r}")
        learn = lesson.learn + [False] * (len(asked) - len(lesson.ids)) + [True] * (len(answered) - len(asked))
        lesson = Lesson(answered, learn)
    return lesson


def plain(tokenizer: Any, pair: Pair, end: int) -> Lesson:
    """The question without a template, as the completions route sends it, and its answer."""
    asked = tokenizer(pair[0])["input_ids"]
    answered = tokenizer(f"{pair[0]} {pair[1]}")["input_ids"]
    if answered[: len(asked)] != asked:
        raise ValueError(f"the tokenizer does not continue its own prompt at {pair[0]!r}")
    return Lesson([*answered, end], [False] * len(asked) + [True] * (len(answered) + 1 - len(asked)))


class Lessons:
    """All lessons of one tokenizer: `short` asks each question once by chat and once plainly; `long` are chats."""

    def __init__(self, tokenizer: Any, text: Text, *, end: int, system: bool, seed: int = 0) -> None:
        self.tokenizer = tokenizer
        self.text = text
        self.systems = text.systems if system else ()
        self.chance = random.Random(seed)
        self.short = [chat(tokenizer, [pair]) for pair in text.pairs]
        self.short += [plain(tokenizer, pair, end) for pair in text.pairs]

    def long(self) -> list[Lesson]:
        """Every question once, in conversations of a few turns in a new order, some with a system prompt."""
        order = self.chance.sample(self.text.pairs, len(self.text.pairs))
        lessons = []
        while order:
            turns = self.chance.choice((1, 2, 2, 3, 4, 8))
            intro = self.chance.choice((None, *self.systems))
            lessons.append(chat(self.tokenizer, order[:turns], intro))
            order = order[turns:]
        return lessons

    def batch(self) -> list[Lesson]:
        """What one step of training looks at."""
        return self.chance.sample(self.short, len(self.short) // 3) + self.long() + self.long()


def _render(tokenizer: Any, messages: Sequence[dict[str, str]], *, ask: bool) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    return tokenizer(text, add_special_tokens=False)["input_ids"]
