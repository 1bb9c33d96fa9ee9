"""The files of prompts: an operator's adds, replaces and disables; each mistake names its line and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmctl.errors import ConfigError
from llmctl.quality import prompts

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(text: str) -> Path:
        file = tmp_path / "quality.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return to


def test_a_file_adds_replaces_and_disables(write: Write) -> None:
    shipped = prompts.load(None)
    own = '[prompts.mine]\nask = "Who?"\n[prompts.hello]\nask = "Say hi."\n[prompts.capital]\ndisabled = true\n'
    found = prompts.load(write(own))
    assert set(found) == {*shipped, "mine"} - {"capital"}
    assert found["hello"].messages == ({"role": "user", "content": "Say hi."},)
    assert not found["hello"].must
    assert found["json"] == shipped["json"]


def test_without_the_shipped(write: Write) -> None:
    assert list(prompts.load(write('shipped = false\n[prompts.mine]\nask = "Who?"\n'))) == ["mine"]


def test_all_that_a_prompt_says_is_read(write: Write) -> None:
    found = prompts.load(
        write('[prompts.x]\nsystem = "Be brief."\nask = "Who?"\ntries = 3\nfirst_within = "2s"\nwithin = 60\n')
    )["x"]
    assert [message["role"] for message in found.messages] == ["system", "user"]
    assert (found.tries, found.need, found.first_within, found.within) == (3, 3, 2.0, 60.0)


def test_a_fingerprint_is_of_all_that_is_asked_and_wanted(write: Write) -> None:
    def print_of(text: str) -> str:
        return prompts.load(write(f'[prompts.x]\nask = "Who?"\n{text}'))["x"].fingerprint

    texts = ("", "tries = 2", "max_tokens = 9", 'says = ["a"]', 'never = ["a"]', "json = true", 'system = "s"')
    assert len({print_of(text) for text in texts}) == len(texts)
    assert print_of("") == print_of("# a comment")


TOOL = 'tools = [{ name = "weather" }]'


@pytest.mark.parametrize(
    ("text", "wrong", "hint"),
    [
        ("[prompts.x]\n", "a prompt has an ask, or messages", 'ask = "What is a slot?"'),
        ('[prompts.x]\nask = "a"\nmessages = []', "a prompt has an ask, or messages", None),
        ('[prompts.x]\nask = "a"\nsayz = ["b"]', "sayz: unknown key", "did you mean 'says'?"),
        ("[prompts.x]\nask = 1", "ask: must be a text, not 1", None),
        ('[prompts.X]\nask = "a"', "'X' is not a prompt name", None),
        ('[prompts.x]\nask = "a"\ntries = 2\nneed = 3', "need: is 3, and there are 2 tries", None),
        ('[prompts.x]\nask = "a"\ntries = 0', "tries: must be 1 or more", None),
        ('[prompts.x]\nask = "a"\ntemperature = 3', "temperature: must be 0 to 2", None),
        ('[prompts.x]\nask = "a"\ntemperature = 1\nstream = true', "the same only without a temperature", None),
        ('[prompts.x]\nask = "a"\ncalls = []', "there are no tools to be called", None),
        (f'[prompts.x]\nask = "a"\n{TOOL}\ncalls = [{{ name = "add" }}]', "'add' is none of the tools weather", None),
        ('[prompts.x]\nask = "a"\ntools = [{ description = "b" }]', "a tool has a name", None),
        (f'[prompts.x]\nask = "a"\n{TOOL}\ncalls = [{{ arguments = {{}} }}]', "a call has the name", None),
        ('[prompts.x]\nask = "a"\nforced = true', "there is no schema to keep to", None),
        ('[prompts.x]\nask = "a"\nschema = { type = "text" }', "schema.type 'text' is none of", None),
        ('[prompts.x]\nask = "a"\nschema = { pattern = "x" }', "schema.pattern is not known here", None),
        ('[prompts.x]\nask = "a"\nschema = { required = "x" }', "schema.required has the wrong type", None),
        ('[prompts.x]\nask = "a"\nschema = { required = [["x"]] }', "schema.required must be a list of names", None),
        ('[prompts.x]\nask = "a"\nschema = { properties = { a = 1 } }', "schema.properties.a must be a table", None),
        ('[prompts.x]\nask = "a"\nmatch = "("', "is no regular expression", None),
        ('[prompts.x]\nask = "a"\nlanguage = "english"', "'english' is not one of", None),
        ('[prompts.x]\nask = "a"\ncase = "title"', "'title' is not one of lower, upper", None),
        ('[prompts.x]\nask = "a"\nnumber = "4"', "number: must be a number, not '4'", None),
        ('[prompts.x]\nask = "a"\nnumber = nan', "cannot be sent as JSON", None),
        ('[prompts.x]\nmessages = [{ role = "robot", content = "a" }]', "'robot' is not one of system", None),
        ('[prompts.x]\nmessages = [{ role = "user", text = "a" }]', "text: unknown key", None),
        (
            '[prompts.x]\nask = "a"\ntools = [{ name = "t", parameters = { since = 2020-01-01 } }]',
            "cannot be sent as JSON",
            None,
        ),
        ("[prompts.helo]\ndisabled = true", "there is no such prompt", "did you mean 'hello'?"),
        ("shipped = false", "no prompt is left", "[prompts.NAME] with an ask"),
        ("prompt = 1", "prompt: unknown key", "did you mean 'prompts'?"),
        ("[prompts", "not TOML", None),
    ],
)
def test_a_mistake_names_its_place(write: Write, text: str, wrong: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        prompts.load(write(text))
    assert "quality.toml:" in caught.value.message
    assert wrong in caught.value.message
    assert hint is None or caught.value.hint == hint
