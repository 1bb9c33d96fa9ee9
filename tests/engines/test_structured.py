"""Structured output on the engines: whole answers that match, and formats that harm nobody."""

import json
import re

import pytest

from llmctl.decoding import structured, trial
from llmctl.domain import (
    GRAMMAR,
    JSON_OBJECT,
    JSON_SCHEMA,
    LENGTH,
    REGEX,
    STOP,
    Chunk,
    Failure,
    Format,
    GenerateRequest,
    Sampling,
    Started,
)
from llmctl.errors import RequestError
from tests.engines.asked import loaded
from tests.engines.toy import ToyEngine

ENGINES = {
    "torch": ("torch", "tiny-qwen2"),
    "llamacpp": ("xllamacpp", "tiny-qwen2-gguf"),
    "mlx": ("mlx_lm", "tiny-llama"),
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
QUESTION = ({"role": "user", "content": "What is a slot?"},)
ANSWER = "A port on a host that holds at most one model."
GREEDY = Sampling(temperature=0)
SEEDED = Sampling(seed=7)


class Bench:
    """An engine, and the events it sent."""

    def __init__(self, make):
        self.events = []
        self.engine = make(self.events.append)

    def submit(self, id="a", **fields):
        fields = {"messages": QUESTION, "sampling": GREEDY, "max_tokens": 300, **fields}
        self.engine.submit(GenerateRequest(id, **fields))

    def run(self, **fields):
        """(text, finish) of one request, or the error that it ended with."""
        self.events.clear()
        try:
            self.submit(**fields)
        except RequestError as error:
            return error.to_dict()
        self.finish()
        return self.result()

    def finish(self):
        while self.engine.step():
            pass

    def result(self, id="a", index=0):
        failed = [e.error for e in self.events if isinstance(e, Failure) and e.id == id]
        if failed:
            return failed[0]
        chunks = [e for e in self.events if isinstance(e, Chunk) and (e.id, e.index) == (id, index)]
        return "".join(c.text for c in chunks), chunks[-1].finish


def real(engine, path):
    return Bench(lambda emit: loaded(engine, path, emit, context=1024))


@pytest.fixture(scope="module", params=ENGINES)
def bench(request, tiny_models):
    library, model = ENGINES[request.param]
    pytest.importorskip(library)
    bench = real(request.param, tiny_models[model])
    yield bench
    bench.engine.close()


@pytest.fixture(scope="module")
def toy():
    """A model that says anything, but quickly: one token a byte."""
    from llmctl.engines.batch import BatchEngine

    bench = Bench(lambda emit: BatchEngine(ToyEngine(context=2048), emit))
    yield bench
    bench.engine.close()


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_an_answer_matches_its_schema(bench, sampling):
    text, finish = bench.run(format=Format(JSON_SCHEMA, json.dumps(PERSON)), sampling=sampling)
    answer = json.loads(text)
    assert set(answer) == {"name", "age"} and isinstance(answer["name"], str) and answer["age"] <= 150
    assert finish == STOP
    assert "schema" in bench.engine.identity.capabilities


def test_an_answer_matches_an_expression_and_a_grammar(bench):
    text, finish = bench.run(format=Format(REGEX, r"(yes|no), [a-d]{3}/[0-9]"))
    assert re.fullmatch(r"(yes|no), [a-d]{3}/[0-9]", text) and finish == STOP
    text, finish = bench.run(format=Format(GRAMMAR, 'start: ("🙂" | "字") "!"'))
    assert text in ("🙂!", "字!") and finish == STOP


def test_what_the_model_would_say_anyway_is_the_same_with_a_mask(bench):
    assert bench.run() == (ANSWER, STOP)
    text, finish = bench.run(format=Format(REGEX, "[ -~]+"))
    assert (text.removeprefix(" "), finish) == (ANSWER, STOP)  # a format may begin with a space, so none is dropped


def test_masked_sequences_and_others_share_a_batch(bench):
    bench.events.clear()
    bench.submit("json", format=Format(JSON_SCHEMA, json.dumps(PERSON)), n=2, sampling=SEEDED)
    bench.submit("free")
    bench.submit("regex", format=Format(REGEX, "[0-9]{4}"))
    bench.finish()
    for index in (0, 1):
        assert json.loads(bench.result("json", index)[0]).keys() == PERSON["properties"].keys()
    assert bench.result("free") == (ANSWER, STOP)
    assert re.fullmatch("[0-9]{4}", bench.result("regex")[0])


def test_any_object_is_one(toy):
    text, finish = toy.run(format=Format(JSON_OBJECT), sampling=SEEDED, max_tokens=2000)
    assert finish == LENGTH or isinstance(json.loads(text), dict)
    assert text.startswith("{")


def test_stop_strings_and_budgets_end_a_masked_answer(toy):
    format = Format(REGEX, "ab{3}c+d")
    assert toy.run(format=format, stop=("bbc",)) == ("ab", STOP)
    assert toy.run(format=format, max_tokens=3) == ("abb", LENGTH)


def test_an_answer_ends_where_its_format_ends_even_when_the_model_would_go_on(toy):
    assert toy.run(format=Format(REGEX, "abc"), ignore_eos=True) == ("abc", STOP)


CHAIN = "start: r0\n" + "\n".join(f'r{i}: r{i + 1} | r{i + 1} "a"' for i in range(2500)) + '\nr2500: "b"'
RING = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
CHOICES = {"allOf": [{"anyOf": [{"pattern": f"a{i}"}, {"pattern": f"b{i}"}]} for i in range(20)]}
HOSTILE = {
    "no_json": (JSON_SCHEMA, "{"),
    "no_schema": (JSON_SCHEMA, "[1]"),
    "no_type": (JSON_SCHEMA, '{"type": "strnig"}'),
    "nothing": (JSON_SCHEMA, "false"),
    "nested": (JSON_SCHEMA, '{"items":' * 6000 + "{}" + "}" * 6000),
    "ref_loop": (JSON_SCHEMA, '{"$ref": "#"}'),
    "ref_ring": (JSON_SCHEMA, json.dumps(RING)),
    "all_of_loop": (JSON_SCHEMA, '{"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {}]}}, "$ref": "#/$defs/a"}'),
    "far_ref": (JSON_SCHEMA, '{"$ref": "http://127.0.0.1:1/x"}'),
    "file_ref": (JSON_SCHEMA, '{"$ref": "file:///etc/passwd"}'),
    "exponential": (JSON_SCHEMA, json.dumps(CHOICES)),
    "open_group": (REGEX, "("),
    "look_ahead": (REGEX, "(?=a)b"),
    "back_reference": (REGEX, r"(a)\1"),
    "megabyte": (GRAMMAR, 'start: "' + "a" * 2**20 + '"'),
    "many": (GRAMMAR, "start: " + '"a" | ' * 10_000 + '"b"'),
    "open_quote": (GRAMMAR, 'start: "a'),
    "endless": (GRAMMAR, "start: start"),
    "no_kind": ("poem", "roses"),
    "optional": (REGEX, "a?" * 20_000 + "b"),
    "intersected": (GRAMMAR, "start: A\nA: " + " & ".join(f"/.*x{i}.*/" for i in range(300))),
    "chain": (GRAMMAR, CHAIN),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a29_a_bad_or_exploding_format_is_refused_and_other_streams_go_on(toy, name):
    toy.events.clear()
    toy.submit("other", max_tokens=5)
    try:
        toy.submit("bad", format=Format(*HOSTILE[name]))
        toy.finish()
        refusal = toy.result("bad")
    except RequestError as error:
        refusal = error.to_dict()
        toy.finish()
    assert not [e for e in toy.events if isinstance(e, Started) and e.id == "bad"]
    assert (refusal["status"], refusal["param"], refusal["code"]) == (400, "response_format", "invalid_format")
    assert len(refusal["message"]) < 500 and "\n" not in refusal["message"]
    assert toy.result("other")[1] == LENGTH


def test_a30_an_expression_that_would_take_other_engines_ages_is_harmless_here(toy):
    assert set(toy.run(format=Format(REGEX, "(a+)+$"), max_tokens=50)[0]) == {"a"}


def test_a31_a_bad_grammar_then_a_good_one(toy):
    assert toy.run(format=Format(GRAMMAR, CHAIN))["status"] == 400
    assert toy.run(format=Format(GRAMMAR, 'start: "yes"')) == ("yes", STOP)


def test_cancelling_while_a_format_is_prepared_leaves_nothing(toy):
    toy.events.clear()
    toy.submit(format=Format(REGEX, "[a-z]?" * 9_000 + "b"))
    toy.engine.step()
    toy.engine.cancel("a")
    assert not toy.engine.step()
    assert toy.engine._engine.sequences == {}


def test_a_format_that_becomes_costly_later_fails_its_own_request(toy, monkeypatch):
    monkeypatch.setattr(structured, "SLOWEST", -1.0)
    toy.events.clear()
    toy.submit("costly", format=Format(REGEX, "a+"))
    toy.submit("other", max_tokens=5)
    toy.finish()
    assert toy.result("costly")["code"] == "nothing_allowed"
    assert toy.result("other")[1] == LENGTH


def test_the_trial_comes_back_after_a_grammar_that_ended_it():
    one = trial.Trial()
    try:
        assert one.verdict(json.dumps({"grammars": [{"lark_grammar": CHAIN}]})) == "it is too complex"
        assert one.verdict(json.dumps({"grammars": [{"lark_grammar": 'start: "a"'}]})) is None
    finally:
        one.close()
