"""Parsers of what models say: every family's syntax, what is broken, and that no cut changes anything."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.decoding.families import Speech
from llmctl.decoding.pieces import Call, Text, Thought

TOOLS = (
    {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}},
)
PARIS = {"name": "weather", "arguments": {"city": "Paris"}}
EMOJI = {"name": "weather", "arguments": {"city": 'a "quoted" </tool_call> 🙂 字 \\ é'}}
SUM = {"name": "add", "arguments": {"a": 1, "b": -2.5}}


def dump(value):
    return json.dumps(value, ensure_ascii=False)


def read(speech, parts, *, opened=False, tools=TOOLS):
    """(text, thoughts, calls) of an output that comes in these parts."""
    parser = speech.parser(tools, opened=opened)
    pieces = [piece for part in parts for piece in parser.push(part)] + parser.end()
    text = "".join(p.text for p in pieces if isinstance(p, Text))
    thoughts = "".join(p.text for p in pieces if isinstance(p, Thought))
    return text, thoughts, [(p.name, json.loads(p.arguments)) for p in pieces if isinstance(p, Call)]


def call(value):
    return value["name"], value["arguments"]


HERMES, MISTRAL, LLAMA, JSON = Speech("hermes"), Speech("mistral"), Speech("llama3_json"), Speech("json")
THINK = Speech("hermes", "think")
HARMONY = Speech("harmony", "harmony")
BROKEN = '{"name": "weather", "arguments": {"city": "Par}'
XML = "<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n-2.5\n</parameter>\n</function>"

# name: (speech, output, text, thoughts, calls)
CASES = {
    "hermes_text": (HERMES, "Hello <tool> 🙂", "Hello <tool> 🙂", "", []),
    "hermes_call": (HERMES, f"<tool_call>\n{dump(PARIS)}\n</tool_call>", "", "", [PARIS]),
    "hermes_two": (HERMES, f"Let me see.\n<tool_call>{dump(EMOJI)}</tool_call>\n<tool_call>{dump(SUM)}</tool_call>",
                   "Let me see.", "", [EMOJI, SUM]),
    "hermes_then_text": (HERMES, f"<tool_call>{dump(PARIS)}</tool_call>\nDone.", "\nDone.", "", [PARIS]),
    "hermes_unclosed": (HERMES, f"<tool_call>\n{dump(PARIS)}", "", "", [PARIS]),
    "hermes_half_closed": (HERMES, f"<tool_call>\n{dump(PARIS)}\n</tool", "", "", [PARIS]),
    "hermes_broken": (HERMES, f"a <tool_call>{BROKEN}</tool_call> b", f"a <tool_call>{BROKEN}</tool_call> b", "", []),
    "hermes_missing_brace": (HERMES, f"<tool_call>{dump(PARIS)[:-1]}</tool_call>{'<tool_call>' + dump(SUM)}",
                             f"<tool_call>{dump(PARIS)[:-1]}</tool_call>", "", [SUM]),
    "hermes_unknown": (HERMES, '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
                       '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', "", []),
    "hermes_no_object": (HERMES, "<tool_call>[1, 2]</tool_call>", "<tool_call>[1, 2]</tool_call>", "", []),
    "hermes_name_no_text": (HERMES, '<tool_call>{"name": ["add"]}</tool_call>',
                            '<tool_call>{"name": ["add"]}</tool_call>', "", []),
    "hermes_nan": (HERMES, '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>',
                   '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', "", []),
    "hermes_huge": (HERMES, '<tool_call>{"name": "add", "arguments": {"a": 1e999}}</tool_call>',
                    '<tool_call>{"name": "add", "arguments": {"a": 1e999}}</tool_call>', "", []),
    "hermes_surrogate": (HERMES, '<tool_call>{"name": "weather", "arguments": {"city": "\\ud800"}}</tool_call>',
                         '<tool_call>{"name": "weather", "arguments": {"city": "\\ud800"}}</tool_call>', "", []),
    "hermes_text_arguments": (HERMES, '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", "",
                              [{"name": "add", "arguments": {"a": 1}}]),
    "hermes_xml": (HERMES, f"<tool_call>\n{XML}\n</tool_call>", "", "", [SUM]),
    "hermes_xml_broken": (HERMES, "<tool_call><function=add>x</function></tool_call>",
                          "<tool_call><function=add>x</function></tool_call>", "", []),
    "mistral_list": (MISTRAL, f"[TOOL_CALLS] {dump([EMOJI, SUM])}", "", "", [EMOJI, SUM]),
    "mistral_named": (MISTRAL, 'Now [TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]add[CALL_ID]x1[ARGS]'
                      '{"a": 1, "b": -2.5}', "Now", "", [PARIS, SUM]),
    "mistral_broken": (MISTRAL, '[TOOL_CALLS][{"name": "weather"', '[TOOL_CALLS][{"name": "weather"', "", []),
    "mistral_unknown": (MISTRAL, "[TOOL_CALLS]rm[ARGS]{}", "[TOOL_CALLS]rm[ARGS]{}", "", []),
    "mistral_prose": (MISTRAL, "[TOOL_CALLS] " + "x" * 300 + "{}", "[TOOL_CALLS] " + "x" * 300 + "{}", "", []),
    "llama": (LLAMA, '{"name": "weather", "parameters": {"city": "Paris"}}', "", "", [PARIS]),
    "llama_tag": (LLAMA, f'<|python_tag|>{dump(EMOJI)}; {dump(SUM)}', "", "", [EMOJI, SUM]),
    "llama_text": (LLAMA, "It is {sunny}.", "It is {sunny}.", "", []),
    "llama_text_tag": (LLAMA, f"Well <|python_tag|>{dump(PARIS)}", "Well ", "", [PARIS]),
    "llama_code": (LLAMA, "<|python_tag|>print(1)", "<|python_tag|>print(1)", "", []),
    "llama_other_json": (LLAMA, '{"name": "weather"} is it', '{"name": "weather"} is it', "", []),
    "llama_broken": (LLAMA, BROKEN, BROKEN, "", []),
    "json_fence": (JSON, f"```json\n{dump(PARIS)}\n```", "", "", [PARIS]),
    "json_list": (JSON, dump([PARIS, SUM]), "", "", [PARIS, SUM]),
    "json_code": (JSON, "```python\nprint(1)\n```", "```python\nprint(1)\n```", "", []),
    "think": (THINK, f"<think>\nHm, </think is 字🙂.\n\n</think>\n\nYes <tool_call>{dump(PARIS)}</tool_call>", "Yes",
              "Hm, </think is 字🙂.", [PARIS]),
    "think_not": (THINK, " <thin ice", " <thin ice", "", []),
    "think_later": (THINK, "a <think>b</think>", "a <think>b</think>", "", []),
    "think_unclosed": (THINK, "<think>so\n", "", "so", []),
    "think_empty": (THINK, "<think>\n\n</think>\n\nYes.", "Yes.", "", []),
    "harmony_text": (HARMONY, "Just text.", "Just text.", "", []),
    "harmony_final": (HARMONY, "<|channel|>analysis<|message|>Hm 🙂<|end|><|start|>assistant<|channel|>final<|message|>"
                      "Yes.", "Yes.", "Hm 🙂", []),
    "harmony_call": (HARMONY, "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary "
                     f"to=functions.weather <|constrain|>json<|message|>{dump(EMOJI['arguments'])}<|call|>",
                     "", "Hm", [EMOJI]),
    "harmony_preamble": (HARMONY, "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.add"
                         f"<|channel|>commentary json<|message|>{dump(SUM['arguments'])}", "I look.", "", [SUM]),
    "harmony_broken": (HARMONY, "<|channel|>commentary to=functions.add<|message|>{<|call|>",
                       "<|channel|>commentary to=functions.add<|message|>{<|call|>", "", []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_output_is_told_apart_whole_and_character_by_character(name):
    speech, output, text, thoughts, calls = CASES[name]
    expected = (text, thoughts, [call(c) for c in calls])
    assert read(speech, [output]) == expected
    assert read(speech, output) == expected


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_every_cut_of_an_output_and_of_its_halves_gives_the_same(name, data):
    speech, output, *_ = CASES[name]
    output = output[: data.draw(st.integers(0, len(output)))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=6)))
    parts = [output[a:b] for a, b in itertools.pairwise([0, *cuts, len(output)])]
    assert read(speech, parts) == read(speech, [output])


MARKED = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>", "```json\n",
         "<|channel|>", "final", "analysis", "<|message|>", "<|end|>", "<|start|>", "to=functions.add", "<|call|>",
         dump(PARIS), dump(SUM), '{"a": 1}', "weather", "{", "}", "[", "]", '"', "\\", " ", "\n", "🙂", "字", "<", "x"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.sampled_from([HERMES, MISTRAL, LLAMA, JSON, THINK, HARMONY]), MARKED, st.booleans(), st.data())
def test_any_mixture_of_markers_is_the_same_at_every_cut(speech, output, opened, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=8)))
    parts = [output[a:b] for a, b in itertools.pairwise([0, *cuts, len(output)])]
    assert read(speech, parts, opened=opened) == read(speech, [output], opened=opened)


@settings(deadline=None)
@given(st.sampled_from([HERMES, MISTRAL, LLAMA, JSON]), MARKED)
def test_without_a_call_nothing_is_lost(speech, output):
    text, _, calls = read(speech, [output])
    assert calls or text == output


def test_an_open_thought_goes_on():
    assert read(THINK, ["so it", " is.</th", "ink>\n", "\nYes."], opened=True) == ("Yes.", "so it is.", [])


def test_text_comes_as_soon_as_it_is_certain():
    parser = HERMES.parser(TOOLS, opened=False)
    assert parser.push("Hello <tool") == [Text("Hello")]
    assert parser.push("s>") == [Text(" <tools>")]
    parser = THINK.parser(TOOLS, opened=False)
    assert parser.push("<think>Hm") == [Thought("Hm")]
    assert parser.push("</thin") == []


def test_without_tools_and_thoughts_there_is_nothing_to_tell_apart():
    assert HERMES.parser((), opened=False) is None
    assert read(Speech("hermes", "think"), ["<tool_call>"], tools=()) == ("<tool_call>", "", [])
