"""Each shipped prompt takes a good answer, and refuses each of several bad ones by the check that is meant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from llmctl.quality import language, leaks, prompts, schema
from llmctl.quality.checks import Call, Reply, failures
from llmctl.quality.prompts import Prompt

SHIPPED = prompts.load(None)
ENGLISH = "Light from the sun is scattered by the air. Blue light is scattered more than red, and this is what you see."
GERMAN = "Der Wald ist im Herbst bunt. Die Blätter fallen auf den Boden und es wird kühl. Am Abend ist es still."
FRENCH = "La mer est salée parce que les rivières y portent des sels. L'eau part dans le ciel, et le sel reste."
SPANISH = "Los barcos flotan porque el agua los empuja hacia arriba. El casco es hueco, y por eso pesa poco."
CHINESE = "因为天气变冷，树叶里的叶绿素减少了，所以树叶变成了红色和黄色。"
JAPANESE = "秋になると日が短くなります。葉の緑の色素が少なくなります。それで赤や黄色が見えるのです。"
WEATHER = Call("weather", '{"city": "Oslo"}')
TABLE = Call("book_table", '{"restaurant": "Luna", "people": 4}')


@dataclass(frozen=True)
class Case:
    """A good answer to a prompt, and bad ones by the check that has to find each."""

    good: Reply
    bad: tuple[tuple[str, Reply], ...]


def said(good: str, **bad: str) -> Case:
    return Case(Reply(good), tuple((check.rstrip("_"), Reply(text)) for check, text in bad.items()))


def called(*calls: Call, finish: str = "tool_calls", text: str = "") -> Reply:
    return Reply(text, calls=calls, finish=finish)


CASES = {
    "hello": Case(
        Reply("Hello!"),
        (("empty", Reply(" \n")), ("empty", called(WEATHER)), ("leak", Reply("Hello!<|im_end|>"))),
    ),
    "quick": Case(
        Reply("Red", first=29.0, seconds=100.0),
        (("latency", Reply("Red", first=31.0, seconds=31.5)), ("latency", Reply("Red", first=1.0, seconds=121.0))),
    ),
    "capital": said("It is Paris.", says="It is Lyon.", says_="In the Parisian basin.", leak="Paris</s>"),
    "turns": said("Your name is Ada.", says="I do not know your name."),
    "found-in-a-text": said("The code is 7194.", number="It is 7914.", number_="I cannot say."),
    "english": said(ENGLISH, language=GERMAN, language_="Blue."),
    "german": said(GERMAN, language=ENGLISH),
    "french": said(FRENCH, language=SPANISH),
    "spanish": said(SPANISH, language=FRENCH),
    "japanese": said(JAPANESE, language=CHINESE, language_=ENGLISH),
    "asked-for-german": said(GERMAN, language=ENGLISH),
    "characters": said(
        "naïve café 🦙 羊驼 Ωmega", exactly="naive cafe 🦙 羊驼 Ωmega", leak="naïve café \ufffd 羊驼 Ωmega"
    ),
    "product": said("391", number="381", number_="391 is not 17."),
    "story-sum": said("There are 53, half of them 26.5, so 26", number="26.5"),
    "percentage": said("36", number="36.5"),
    "exact-word": said("BANANA", exactly="BANANA.", exactly_="banana"),
    "four-words": said("Deep, blue, salty, endless.", words="The sea is deep and blue."),
    "three-lines": said("apple\npear\nplum", lines="Here are three:\napple\npear\nplum", lines_="apple, pear, plum"),
    "lower-case": said("the moon is a rock.", case="The moon is a rock."),
    "without-a-word": said("It is to keep you dry in the wet.", never="It is to keep the rain off you."),
    "date": said("2021-03-03", match="3 March 2021", match_="2021-03-04"),
    "system-kept": said("I am well. SQUAWK!", match="I am well."),
    "json": said(
        '{"name": "Mars", "moons": 2, "gas": false}',
        json='```json\n{"name": "Mars", "moons": 2, "gas": false}\n```',
        json_='{"name": "Mars", "moons": "two", "gas": false}',
        json__='{"name": "Mars", "moons": 2}',
        json___='{"name": "Mars", "moons": 2, "gas": true}',
        json____='{"name": "Mars", "moons": 2, "gas": false',
    ),
    "json-forced": said(
        '{"city": "Rome", "capital": true}',
        json='{"city": "Rome", "capital": true, "more": 1}',
        json_='{"city": "Rome"}',
        json__="Rome is the capital.",
    ),
    "tool": Case(
        called(WEATHER),
        (
            ("tools", Reply("It is sunny in Oslo.")),
            ("tools", called(Call("weather", '{"city": "Rome"}'))),
            ("tools", called(Call("weather", '{"city": "Oslo"'))),
            ("tools", called(Call("weather", '["city"]'))),
            ("tools", called(WEATHER, WEATHER)),
            ("tools", called(WEATHER, finish="stop")),
            ("tools", called(Call("forecast", '{"city": "Oslo"}'))),
            ("leak", called(Call("weather<|channel|>commentary", '{"city": "Oslo"}'))),
            ("leak", called(WEATHER, text="<tool_call>")),
        ),
    ),
    "tool-among-others": Case(called(TABLE), (("tools", called(Call("book_table", '{"people": "4"}'))),)),
    "tool-not-needed": Case(
        Reply("It is 4."), (("tools", called(WEATHER, text="4")), ("says", Reply("Five")), ("empty", Reply("")))
    ),
    "tool-result": Case(Reply("It is 7 degrees."), (("says", Reply("It is cold.")), ("tools", called(WEATHER)))),
    "thinking": Case(
        Reply("Kim", reasoning="Tom > Ann > Kim"),
        (
            ("leak", Reply("<think>Tom > Ann</think>Kim")),
            ("leak", Reply("Kim", reasoning="Ann > Kim<|end|>")),
            ("empty", Reply("", reasoning="Tom > Ann > Kim")),
            ("says", Reply("Tom")),
        ),
    ),
    "stop": said("1, 2, 3, 4, 5, ", stop="1, 2, 3, 4, 5, 6", match="I cannot count.", match_="1, 2, 3, 4, 5, 7"),
    "stream": said("Spring, summer, autumn, winter.", empty=""),
}  # fmt: skip


def test_there_is_a_case_for_each_shipped_prompt() -> None:
    assert set(CASES) == set(SHIPPED)


@pytest.mark.parametrize("name", CASES)
def test_a_good_answer_passes(name: str) -> None:
    assert failures(SHIPPED[name], CASES[name].good) == {}


@pytest.mark.parametrize(("name", "check", "reply"), [(name, *bad) for name, case in CASES.items() for bad in case.bad])
def test_a_bad_answer_is_found(name: str, check: str, reply: Reply) -> None:
    assert check in failures(SHIPPED[name], reply)


def test_streamed_and_whole_must_be_the_same() -> None:
    prompt, reply = SHIPPED["stream"], replace(CASES["tool"].good, text="One")
    assert failures(prompt, reply, reply) == {}
    for other in (
        replace(reply, text="Two"), replace(reply, calls=()), replace(reply, finish="length"),
        replace(reply, calls=(Call("weather", '{"city":"Oslo"}'),)),
    ):  # fmt: skip
        assert list(failures(prompt, reply, other)) == ["stream"]


def test_an_answer_that_was_cut_is_told_so() -> None:
    assert failures(SHIPPED["product"], Reply("Let me see", finish="length")) == {
        "number": "there is no number: 'Let me see' (it was cut at 1024 tokens)"
    }


@pytest.mark.parametrize(
    ("number", "text", "right"),
    [
        (1234567, "It is 1,234,567.", True),
        (1234567, "1,234", False),
        (-3, "x = -3", True),
        (0.5, "so 0.5", True),
        (5, "0,5", False),
        (2, "on 2024.01.02", False),
        (4, "2 + 2 = **4**", True),
    ],
)
def test_the_last_number_counts(number: float, text: str, right: bool) -> None:
    assert (failures(Prompt("p", (), number=number), Reply(text)) == {}) == right


# ── marks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LEAKS = (
    "<think>", "</think>", "<thinking>", "<|channel|>", "<|im_start|>", "<|eot_id|>", "<|start_header_id|>",
    "<|tool▁call|>".replace("▁", "_"), "<｜tool▁calls▁begin｜>", "<tool_call>", "</tool_call>", "<tool_response>",
    "<function=weather>", "</function>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>", "<bos>", "<eos>", "<pad>",
    "<unk>", "[INST]", "[/INST]", "<<SYS>>", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[gMASK]", "[THINK]",
    "assistantfinal", "<0x0A>", "\ufffd",
)  # fmt: skip
HARMLESS = (
    "I think so.", "a < b | c > d", "if x <| y", "<b>bold</b>", "the [INSTALL] button", "list[int]", "x[0]", "<0>",
    "an assistant, finally", "thinking", "GĦ Ġorġ", "▁▂▃", "f(x) -> <T>", "<stdin>",
)  # fmt: skip


@pytest.mark.parametrize("mark", LEAKS)
def test_marks_of_protocols_are_found_anywhere(mark: str) -> None:
    assert leaks.found(f"Well,{mark} yes") == [mark]


@pytest.mark.parametrize("text", HARMLESS)
def test_other_text_is_none(text: str) -> None:
    assert leaks.found(text) == []


def test_a_prompt_may_allow_a_mark() -> None:
    reply = Reply("The tag <s> strikes, <think> does not.")
    assert failures(Prompt("p", (), allow=("<s>", "<think>")), reply) == {}
    assert list(failures(Prompt("p", (), allow=("<s>",)), reply)) == ["leak"]


# ── languages and schemas ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("O barco não é grande, mas é bonito e está no rio com os outros.", "pt"),
        ("Il mare è salato perché i fiumi portano del sale nel mare, e non è una cosa nuova.", "it"),
        ("De zee is zout omdat het water van de rivieren zout naar zee brengt.", "nl"),
        ("Корабль плывёт, потому что вода толкает его вверх.", "ru"),
        ("바다는 소금기가 있습니다.", "ko"),
        ("船因为浮力而浮在水上。", "zh"),
        ("السفينة تطفو على الماء.", "ar"),
        ("Το πλοίο επιπλέει στο νερό.", "el"),
        ("Die Llama (лама) ist ein Tier, und das Tier ist auf dem Berg.", "de"),
        ("42", None),
        ("OK", None),
        ("ab вг де fg hi жз", None),
    ],
)
def test_the_language_of_a_text(text: str, code: str | None) -> None:
    assert language.of(text) == code


@pytest.mark.parametrize(
    ("rules", "value", "wrong"),
    [
        ({"type": "integer"}, True, "the answer is a boolean, and no integer"),
        ({"type": "number"}, 2, None),
        ({"type": "array", "items": {"type": "string"}}, ["a", 1], "the answer[1] is an integer, and no string"),
        ({"minItems": 2}, [1], "the answer has 1 items"),
        ({"maxItems": 1}, [1, 2], "the answer has 2 items"),
        ({"minimum": 3}, 2, "the answer is 2, which is not from 3 to inf"),
        ({"maximum": 3}, 4, "the answer is 4, which is not from -inf to 3"),
        ({"enum": ["a", "b"]}, "c", "the answer is 'c', and none of 'a', 'b'"),
        ({"properties": {"a": {"type": "null"}}}, {"a": 1}, "the answer.a is an integer, and no null"),
        ({"required": ["a"]}, {}, "the answer has no 'a'"),
        ({"additionalProperties": False, "properties": {"a": {}}}, {"b": 1}, "the answer has 'b' besides"),
        ({"properties": {"a": {"type": "null"}}}, {"b": 1}, None),
    ],
)
def test_a_schema(rules: dict[str, Any], value: Any, wrong: str | None) -> None:
    assert list(schema.mistakes(rules)) == []
    assert schema.wrong(rules, value) == wrong
