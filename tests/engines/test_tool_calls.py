"""Tools on an engine: what the template is told, what the model may say, and which events come of it."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.decoding.families import Speech
from llmctl.domain import LENGTH, STOP, TOOLS, Chunk, GenerateRequest, Sampling
from llmctl.engines.batch import BatchEngine
from llmctl.errors import RequestError
from tests.engines.toy import EOS, ToyEngine

WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "東京"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 99, "minimum": 0}},
        "required": ["a"],
        "additionalProperties": False,
    },
}
HERMES = Speech("hermes")
MARK = 270
ASK = ({"role": "user", "content": "hi"},)


class Bench:
    """A toy that says one thing to every chat, and what came of it."""

    def __init__(self, says=None, speech=HERMES, specials=None):
        self.toy = ToyEngine(says={"hi": says} if says is not None else {}, context=1024)
        self.toy.tokenizer.speech = speech
        self.toy.tokenizer.specials = {EOS: "<end>", **(specials or {})}
        self.chunks = []
        self.events = []

    def run(self, **fields):
        """The last chunk of the request, all its text, thoughts and calls in it."""
        fields = {"messages": ASK, "sampling": Sampling(temperature=0), "tools": (WEATHER, ADD), **fields}
        self.events.clear()
        engine = BatchEngine(self.toy, self.events.append)
        try:
            engine.submit(GenerateRequest("a", **fields))
            while engine.step():
                pass
        finally:
            engine.close()
        self.chunks = [e for e in self.events if isinstance(e, Chunk)]
        text, thoughts = ("".join(getattr(c, name) for c in self.chunks) for name in ("text", "reasoning"))
        calls = [call for chunk in self.chunks for call in chunk.calls]
        return text, thoughts, calls, self.chunks[-1].finish


def called(calls):
    return [(call.name, json.loads(call.arguments)) for call in calls]


PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
SUM = '<tool_call>\n{"name": "add", "arguments": {"a": 7}}\n</tool_call>'


def test_calls_come_whole_with_ids_of_their_own_and_end_the_answer_as_tools():
    text, _, calls, finish = Bench(f"I look.\n{PARIS}\n{SUM}").run()
    assert (text, finish) == ("I look.", TOOLS)
    assert called(calls) == [("weather", {"city": "Paris"}), ("add", {"a": 7})]
    assert [call.index for call in calls] == [0, 1]
    assert len({call.id for call in calls}) == 2 and all(call.id.startswith("call_") for call in calls)


def test_one_call_at_most_when_they_may_not_be_parallel():
    _, _, calls, finish = Bench(f"{PARIS}\n{SUM}").run(parallel_tools=False)
    assert (called(calls), finish) == ([("weather", {"city": "Paris"})], TOOLS)


def test_a35_broken_tool_json_is_text_and_nothing_is_lost():
    broken = '<tool_call>\n{"name": "weather", "arguments": {"city": }}\n</tool_call> 🙂'
    text, _, calls, finish = Bench(broken).run()
    assert (text, calls, finish) == (broken, [], STOP)


@pytest.mark.parametrize("fields", [{"tools": ()}, {"tool_choice": "none"}, {"messages": None, "prompt": "hi"}])
def test_without_tools_a_call_is_text(fields):
    assert Bench(PARIS).run(**fields)[:3] == (PARIS, "", [])


def test_a_budget_that_ends_within_a_call_leaves_it_as_text():
    text, _, calls, finish = Bench(PARIS).run(max_tokens=30)
    assert (text, calls, finish) == (PARIS[:30], [], LENGTH)


def test_stop_strings_are_looked_for_in_text_alone():
    text, _, calls, finish = Bench(f"So: {PARIS}").run(stop=("weather", "never"))
    assert (text, len(calls), finish) == ("So:", 1, TOOLS)
    bench = Bench(f"Stop here {PARIS}")
    assert bench.run(stop=("p here",)) == ("Sto", "", [], STOP)
    assert bench.chunks[-1].stop_match == "p here"
    assert Bench(f"The we {PARIS}").run(stop=("we never",))[0] == "The we"


def test_a_special_token_is_shown_to_the_parser_and_to_nobody_else():
    says = [MARK, *b'weather[ARGS]{"city": "Paris"}']
    bench = Bench(says, Speech("mistral"), {MARK: "[TOOL_CALLS]", MARK + 1: "<secret>"})
    text, _, calls, finish = bench.run()
    assert (text, called(calls), finish) == ("", [("weather", {"city": "Paris"})], TOOLS)
    assert Bench([*b"a", MARK + 1, *b"b"], Speech("mistral"), {MARK + 1: "<secret>"}).run()[0] == "ab"


def test_log_probabilities_come_for_every_token():
    bench = Bench(f"So {PARIS}")
    bench.run(logprobs=0)
    assert "".join(p.text for chunk in bench.chunks for p in chunk.logprobs) == f"So {PARIS}"


FAMILIES = {
    "hermes": Speech("hermes"),
    "hermes_special": Speech("hermes", "", {MARK: "<tool_call>", MARK + 1: "</tool_call>"}),
    "llama": Speech("llama3_json"),
    "mistral": Speech("mistral", "", {MARK: "[TOOL_CALLS]"}),
    "mistral_named": Speech("mistral", "", {MARK: "[TOOL_CALLS]", MARK + 1: "[ARGS]"}, arguments_mark=True),
    "harmony": Speech("harmony", "harmony", {MARK: "<|channel|>", MARK + 1: "<|message|>", MARK + 2: "<|constrain|>"}),
    "nothing_known": Speech(),
    "thinking": Speech("hermes", "think"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_that_must_be_made_is_made_by_a_model_that_knows_nothing(family):
    speech = FAMILIES[family]
    bench = Bench(None, speech, speech.specials)
    text, _, calls, finish = bench.run(
        tool_choice="required", tools=(WEATHER,), parallel_tools=False, max_tokens=900, sampling=Sampling(seed=3)
    )
    if family == "thinking" and finish == LENGTH:  # it may think for ever
        return
    assert (text.strip(), finish) == ("", TOOLS)
    assert calls[0].name == "weather" and json.loads(calls[0].arguments)["city"] in ("Paris", "東京")


@pytest.mark.parametrize("seed", range(4))
def test_calls_that_must_be_made_name_any_of_the_tools(seed):
    _, _, calls, finish = Bench(None).run(tool_choice="required", max_tokens=900, sampling=Sampling(seed=seed))
    assert finish == TOOLS and 1 <= len(calls) <= 8
    for name, arguments in called(calls):
        assert arguments["city"] in ("Paris", "東京") if name == "weather" else 0 <= arguments["a"] <= 99


def test_a32_tools_whose_schemas_are_wrong_or_too_large_are_refused_by_name():
    bench = Bench(None)
    for parameters in ({"type": "object", "properties": {"a": {"type": "poem"}}}, {"description": "x" * 70_000}):
        try:
            bench.run(tool_choice="required", tools=({"name": "weather", "parameters": parameters},))
        except RequestError as error:
            refusal = error.to_dict()
        except IndexError:  # no chunk: it was refused later
            refusal = bench.events[-1].error
        assert (refusal["status"], refusal["param"]) == (400, "tools")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([PARIS, SUM, "字🙂é", "<tool", "stop", "st🙂op", "<think>a</think>"])
    .flatmap(lambda first: st.lists(st.sampled_from([first, PARIS, "a 字", "🙂", "<", "\n", "sto"]), max_size=5))
    .map("".join),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_what_streams_is_the_same_at_every_cut_of_its_bytes(output, cuts):
    data = output.encode()
    edges = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    whole = Bench(output, Speech("hermes", "think")).run(stop=("stop", "🙂字"))
    bench = Bench(None, Speech("hermes", "think"))
    ids = range(len(pieces))
    bench.toy.tokenizer.token_bytes = lambda id: pieces[id] if id < len(pieces) else b""
    bench.toy.says = {tuple(b"hi"): list(ids)}
    cut = bench.run(stop=("stop", "🙂字"))
    assert cut[:2] == whole[:2] and called(cut[2]) == called(whole[2]) and cut[3] == whole[3]
