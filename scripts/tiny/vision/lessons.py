"""Conversations about pictures as a model takes them: token ids, pixels, and what of it is to be learnt."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import checkpoint
from .drawing import Thing, draw, everything
from .sentences import ONE, Turn, about, spoken, texts

LONGER = 60
"""Conversations of several turns or pictures in the exam."""


@dataclass
class Seen:
    """A picture as the model takes it: [patches, values], and how many rows and columns of patches.

    `tokens` is what a trained eye made of it, [tokens, width].
    """

    patches: Any
    grid: tuple[int, int, int]
    tokens: Any = None

    @property
    def count(self) -> int:
        """How many tokens it takes."""
        return math.prod(self.grid) // checkpoint.MERGE**2


@dataclass(frozen=True)
class Lesson:
    """Token ids, for each whether it is to be learnt, the answers' lengths, and the pictures in their order."""

    ids: list[int]
    learn: list[bool]
    answers: list[int]
    pictures: list[Seen]


class Album:
    """`count` pictures of each thing, drawn and prepared once."""

    def __init__(self, processor: Any, count: int, seed: int) -> None:
        chance = random.Random(seed)
        self.pictures = {thing: [see(processor, draw(thing, chance)) for _ in range(count)] for thing in everything()}

    def keep(self, look: Callable[[list[Seen]], list[Any]]) -> None:
        """Let `look` make the tokens of every picture."""
        for pictures in self.pictures.values():
            for picture, tokens in zip(pictures, look(pictures), strict=True):
                picture.tokens = tokens

    def pick(self, thing: Thing, chance: random.Random) -> Seen:
        """One of the pictures of a thing."""
        return chance.choice(self.pictures[thing])


def see(processor: Any, picture: Any) -> Seen:
    """A PIL image through the image processor of the checkpoint."""
    made = processor(images=[picture], return_tensors="pt")
    return Seen(made["pixel_values"], tuple(made["image_grid_thw"][0].tolist()))


def conversation(chance: random.Random) -> list[Turn]:
    """One or two turns about one to three pictures each, or about none."""
    turns = []
    for _ in range(chance.choice((1, 1, 1, 2))):
        if chance.random() < 0.15:
            turns.append(chance.choice(texts()))
        else:
            turns.append(about(tuple(chance.choice(everything()) for _ in range(chance.choice((1, 1, 2, 3)))), chance))
    return turns


def pictures_alone(tokenizer: Any, album: Album) -> list[Lesson]:
    """The question what is in it, for every picture."""
    return [
        Lesson(*_ids(tokenizer, [Turn((thing,), ONE, spoken([thing]))], [picture]), [picture])
        for thing in everything()
        for picture in album.pictures[thing]
    ]


def exam(tokenizer: Any, album: Album) -> list[Lesson]:
    """Conversations about several pictures, and each question without one."""
    chance = random.Random(3)
    longer = [lesson(tokenizer, conversation(chance), album, chance) for _ in range(LONGER)]
    return longer + [lesson(tokenizer, [turn], album, chance) for turn in texts()]


def lesson(tokenizer: Any, turns: Sequence[Turn], album: Album, chance: random.Random) -> Lesson:
    """A conversation; each answer is to be learnt."""
    pictures = [album.pick(thing, chance) for turn in turns for thing in turn.things]
    return Lesson(*_ids(tokenizer, turns, pictures), pictures)


def _ids(tokenizer: Any, turns: Sequence[Turn], pictures: Sequence[Seen]) -> tuple[list[int], list[bool], list[int]]:
    ids, learn, answers, messages = list[int](), list[bool](), list[int](), list[dict[str, Any]]()
    for turn in turns:
        parts = [*({"type": "image"} for _ in turn.things), {"type": "text", "text": turn.question}]
        asked = [*messages, {"role": "user", "content": parts}]
        messages = [*asked, {"role": "assistant", "content": turn.answer}]
        for heard, said in ((False, asked), (True, messages)):
            text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=not heard)
            more = _with_pictures(tokenizer, text, pictures)[len(ids) :]
            ids += more
            learn += [heard] * len(more)
            answers += [len(more)] if heard else []
    return ids, learn, answers


def _with_pictures(tokenizer: Any, text: str, pictures: Sequence[Seen]) -> list[int]:
    first, *rest = text.split(checkpoint.PAD)
    text = first + "".join(checkpoint.PAD * seen.count + piece for seen, piece in zip(pictures, rest, strict=False))
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
