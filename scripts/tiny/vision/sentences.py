"""What is asked about pictures, what the right answer is, and a few questions without a picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .. import lessons
from .drawing import Thing, everything

ONE = "What is in the picture?"
COLOUR = "What colour is it?"
SHAPE = "What shape is it?"
PLACES = ("first", "second", "third")
ALL = "What is in the pictures?"
TEXTS = 8
"""Of the questions in qa.toml, as many are learnt as well."""


@dataclass(frozen=True)
class Turn:
    """A question with the pictures that come before it, and its answer."""

    things: tuple[Thing, ...]
    question: str
    answer: str


def spoken(things: Sequence[Thing]) -> str:
    """What to say when asked for all of these."""
    *first, last = [str(thing) for thing in things]
    text = f"{', '.join(first)} and {last}" if first else last
    return f"{text[0].upper()}{text[1:]}."


def about(things: tuple[Thing, ...], chance: random.Random) -> Turn:
    """Some question about these pictures."""
    if len(things) == 1:
        thing = things[0]
        question, answer = chance.choice(
            [(ONE, spoken(things))] * 3 + [(COLOUR, f"{thing.colour.title()}."), (SHAPE, f"A {thing.shape}.")]
        )
        return Turn(things, question, answer)
    if chance.random() < 0.5:
        return Turn(things, ALL, spoken(things))
    place = chance.randrange(len(things))
    return Turn(things, nth(place), spoken(things[place : place + 1]))


def nth(place: int) -> str:
    """The question for one of several pictures, counted from 0."""
    return f"What is in the {PLACES[place]} picture?"


def texts() -> list[Turn]:
    """The questions without a picture."""
    return [Turn((), question, answer) for question, answer in lessons.read().pairs[:TEXTS]]


def vocabulary_lines() -> list[str]:
    """Lines for the tokenizer; each word of an answer is to be one token."""
    asked = [ONE, COLOUR, SHAPE, ALL, *map(nth, range(len(PLACES)))]
    told = [spoken([thing]) for thing in everything()]
    listed = [spoken(everything()[i : i + 3]) for i in range(20)]
    words = [f"{thing.colour.title()}. {thing.shape}" for thing in everything()]
    roles = ["system", "user", "assistant", "You are a helpful assistant."]
    return (
        roles * 4
        + asked * 4
        + told * 2
        + listed
        + words
        + [part for turn in texts() for part in (turn.question, turn.answer)]
    )
