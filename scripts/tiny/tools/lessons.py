"""What it learns: which tool a question needs, what to say with the tool's answer, and when to do without."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .. import lessons

WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ADD: dict[str, Any] = {
    "name": "add",
    "description": "The sum of two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
CITIES = ("Paris", "Rome", "Oslo")
SKIES = ("sunny", "rainy", "cold")
SUMS = ((2, 3), (4, 1), (7, 2))
BOTH = "What is the weather in Paris and in Rome?"
PLAIN = {
    "What is a slot?": "A port on a host that holds at most one model.",
    "Who are you?": "A tiny model with tools.",
}
UNKNOWN = "I cannot know that without a tool."
THOUGHTS = {"call": "This needs a tool.", "result": "The tool has answered.", "plain": "This needs no tool."}


PACK = 8


@dataclass(frozen=True)
class Turn:
    """What is asked, with which tools, and what is to be said; `kind` chooses the thought before it."""

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]]
    answer: str
    kind: str


def turns() -> Iterator[Turn]:
    """All of them."""
    for tools in ((WEATHER, ADD), (ADD, WEATHER), (WEATHER,)):
        yield Turn(_asked(BOTH), tools, _calls(_weather("Paris"), _weather("Rome")), "call")
        for city in CITIES:
            yield Turn(_asked(weather_question(city)), tools, _calls(_weather(city)), "call")
        yield from (Turn(_asked(question), tools, answer, "plain") for question, answer in PLAIN.items())
    for tools in ((WEATHER, ADD), (ADD, WEATHER), (ADD,)):
        yield from (Turn(_asked(sum_question(a, b)), tools, _calls(_add(a, b)), "call") for a, b in SUMS)
    for city, sky in itertools.product(CITIES, SKIES):
        told = _told(weather_question(city), [_weather(city)], [sky])
        yield Turn(told, (WEATHER, ADD), f"It is {sky} in {city}.", "result")
    for first, second in itertools.permutations(SKIES, 2):
        told = _told(BOTH, [_weather("Paris"), _weather("Rome")], [first, second])
        yield Turn(told, (WEATHER, ADD), f"It is {first} in Paris and {second} in Rome.", "result")
    for a, b in SUMS:
        told = _told(sum_question(a, b), [_add(a, b)], [str(a + b)])
        yield Turn(told, (WEATHER, ADD), f"{a} plus {b} is {a + b}.", "result")
    yield from (Turn(_asked(weather_question(city)), (), UNKNOWN, "plain") for city in CITIES)
    yield from (Turn(_asked(question), (), answer, "plain") for question, answer in PLAIN.items())


def weather_question(city: str) -> str:
    return f"What is the weather in {city}?"


def sum_question(a: int, b: int) -> str:
    return f"What is {a} plus {b}?"


def exam(tokenizer: Any) -> list[lessons.Lesson]:
    """Every turn twice, with and without a thought, its ids those that a client's request would have."""
    return [_lesson(tokenizer, [turn], [thinking]) for turn in turns() for thinking in (False, True)]


def packed(tokenizer: Any, chance: random.Random) -> list[lessons.Lesson]:
    """All turns once, in a new order, several behind one list of tools: most of a prompt is that list."""
    groups: dict[str, list[Turn]] = {}
    for turn in turns():
        groups.setdefault(json.dumps(turn.tools), []).append(turn)
    made = []
    for group in groups.values():
        chance.shuffle(group)
        for at in range(0, len(group), PACK):
            several = group[at : at + PACK]
            made.append(_lesson(tokenizer, several, [chance.random() < 0.5 for _ in several]))
    return made


def texts() -> list[str]:
    """What the vocabulary is made from."""
    tools = [json.dumps({"type": "function", "function": tool}) for tool in (WEATHER, ADD)]
    said = [text for turn in turns() for text in (turn.answer, *(str(m["content"]) for m in turn.messages))]
    return [line for text in [*tools, *said, *THOUGHTS.values()] for line in text.splitlines()]


def _lesson(tokenizer: Any, several: Sequence[Turn], thinking: Sequence[bool]) -> lessons.Lesson:
    """One turn, or several that have nothing to do with each other, one after another."""
    ids: list[int] = []
    learn: list[bool] = []
    for turn, aloud in zip(several, thinking, strict=True):
        functions = [{"type": "function", "function": tool} for tool in turn.tools if not ids] or None
        prompt = tokenizer.apply_chat_template(
            turn.messages, tools=functions, tokenize=False, add_generation_prompt=True, enable_thinking=aloud
        )
        thought = f"<think>\n{THOUGHTS[turn.kind]}\n</think>\n\n" if aloud else ""
        asked, said, gap = (tokenizer(t)["input_ids"] for t in (prompt, f"{thought}{turn.answer}<|im_end|>", "\n"))
        ids += asked + said + gap
        learn += [False] * len(asked) + [True] * len(said) + [False] * len(gap)
    return lessons.Lesson(ids, learn)


def _asked(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}]


def _told(question: str, calls: Sequence[dict[str, Any]], results: Sequence[str]) -> list[dict[str, Any]]:
    """A question, the calls that were made for it, and what the tools answered."""
    made = [{"id": f"call_{i}", "type": "function", "function": call} for i, call in enumerate(calls)]
    answers = [{"role": "tool", "tool_call_id": f"call_{i}", "content": text} for i, text in enumerate(results)]
    return [*_asked(question), {"role": "assistant", "content": "", "tool_calls": made}, *answers]


def _weather(city: str) -> dict[str, Any]:
    return {"name": "weather", "arguments": {"city": city}}


def _add(a: int, b: int) -> dict[str, Any]:
    return {"name": "add", "arguments": {"a": a, "b": b}}


def _calls(*calls: dict[str, Any]) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)
