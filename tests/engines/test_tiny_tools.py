"""A trained model with tools on torch and llama.cpp: it calls the right one, thinks when told to, uses the results."""

import json

import pytest

from llmctl.domain import STOP, TOOLS, Chunk, GenerateRequest, Sampling
from scripts.tiny.tools import lessons
from tests.engines.asked import loaded

ENGINES = {"torch": ("torch", "tiny-tools"), "llamacpp": ("xllamacpp", "tiny-tools-gguf")}
TOOLSET = (lessons.WEATHER, lessons.ADD)


class Bench:
    """The model on one engine."""

    def __init__(self, engine, path):
        self.events = []
        self.engine = loaded(engine, path, self.events.append, context=1024)

    def ask(self, *messages, tools=TOOLSET, **fields):
        """(text, thoughts, calls, finish) of one greedy answer."""
        self.events.clear()
        fields = {"max_tokens": 160, "sampling": Sampling(temperature=0), **fields}
        self.engine.submit(GenerateRequest("a", messages=messages, tools=tools, **fields))
        while self.engine.step():
            pass
        self.chunks = [e for e in self.events if isinstance(e, Chunk)]
        text, thoughts = ("".join(getattr(c, name) for c in self.chunks) for name in ("text", "reasoning"))
        calls = [call for chunk in self.chunks for call in chunk.calls]
        return text, thoughts, [(c.name, json.loads(c.arguments)) for c in calls], self.chunks[-1].finish


@pytest.fixture(scope="module", params=ENGINES)
def bench(request, tool_model):
    library, model = ENGINES[request.param]
    pytest.importorskip(library)
    bench = Bench(request.param, tool_model[model])
    yield bench
    bench.engine.close()


def user(text):
    return {"role": "user", "content": text}


def test_it_says_of_itself_what_it_can(bench):
    assert {"tools", "reasoning", "schema"} <= set(bench.engine.identity.capabilities)


def test_a_question_is_answered_by_the_right_call(bench):
    assert bench.ask(user(lessons.weather_question("Oslo"))) == ("", "", [("weather", {"city": "Oslo"})], TOOLS)
    assert bench.ask(user(lessons.sum_question(7, 2))) == ("", "", [("add", {"a": 7, "b": 2})], TOOLS)


def test_two_calls_in_one_answer_unless_they_may_not_be_parallel(bench):
    paris, rome = ("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})
    assert bench.ask(user(lessons.BOTH)) == ("", "", [paris, rome], TOOLS)
    assert bench.ask(user(lessons.BOTH), parallel_tools=False) == ("", "", [paris], TOOLS)


def test_a_question_that_needs_no_tool_is_answered_in_words(bench):
    for question, answer in lessons.PLAIN.items():
        assert bench.ask(user(question)) == (answer, "", [], STOP)


@pytest.mark.parametrize("fields", [{"tools": ()}, {"tool_choice": "none"}])
def test_without_tools_it_says_that_it_cannot(bench, fields):
    assert bench.ask(user(lessons.weather_question("Rome")), **fields) == (lessons.UNKNOWN, "", [], STOP)


def test_the_tools_answer_becomes_the_models(bench):
    question = user(lessons.weather_question("Paris"))
    _, _, [(name, arguments)], _ = bench.ask(question)
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    made = {"role": "assistant", "content": "", "tool_calls": [call]}
    for sky in lessons.SKIES:
        told = {"role": "tool", "tool_call_id": "call_1", "content": sky}
        assert bench.ask(question, made, told) == (f"It is {sky} in Paris.", "", [], STOP)


def test_thoughts_come_apart_from_text_and_calls_and_as_they_are_made(bench):
    thought = lessons.THOUGHTS["call"]
    weather = [("weather", {"city": "Rome"})]
    assert bench.ask(user(lessons.weather_question("Rome")), thinking=True) == ("", thought, weather, TOOLS)
    assert sum(bool(chunk.reasoning) for chunk in bench.chunks) > 1
    question, answer = next(iter(lessons.PLAIN.items()))
    assert bench.ask(user(question), thinking=True) == (answer, lessons.THOUGHTS["plain"], [], STOP)
    assert bench.ask(user(question), thinking=True, tools=()) == (answer, lessons.THOUGHTS["plain"], [], STOP)


def test_a_call_that_must_be_made_is_made_where_it_would_have_answered_in_words(bench):
    text, _, calls, finish = bench.ask(
        user("Who are you?"), tool_choice="required", parallel_tools=False, max_tokens=300
    )
    assert (text, finish, len(calls)) == ("", TOOLS, 1)
    assert calls[0][0] in ("weather", "add")


def test_an_answer_goes_on_from_where_it_was_left(bench):
    question, answer = next(iter(lessons.PLAIN.items()))
    begun = {"role": "assistant", "content": f"<think>\n\n</think>\n\n{answer[:16]}"}
    assert bench.ask(user(question), begun, continue_last=True)[0] == answer[16:]
