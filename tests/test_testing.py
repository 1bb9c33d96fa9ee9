"""testing.toml: what it says for all hosts and for one, and each mistake with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmctl import testing
from llmctl.errors import ConfigError

PAIRS = '[[pairs]]\nquestion = "What is a slot?"\nanswer = "A port."\n'


def write(folder: Path, text: str) -> Path:
    (folder / "testing.toml").write_text(text)
    (folder / "qa.toml").write_text(PAIRS)
    return folder


def test_without_a_file_nothing_is_said(tmp_path: Path) -> None:
    assert testing.load(tmp_path, {}).of("any") == testing.Testing() == testing.load(None, {}).of("any")


def test_what_a_host_says_is_over_what_all_say(tmp_path: Path) -> None:
    text = """
backends = ["cpu", "metal"]
largest = "4GB"
time = "20m"
[[questions]]
models = ["tiny-*"]
file = "qa.toml"
[hosts.studio]
engines = ["mlx"]
largest = "60GB"
parallel = 8
real = "30GB"
"""
    file = testing.load(write(tmp_path, text), {"studio": None, "box": None})
    box, studio = file.of("box"), file.of("studio")
    assert (box.backends, box.engines, box.largest, box.time) == (("cpu", "metal"), None, 4 * 10**9, 1200.0)
    assert (studio.backends, studio.engines, studio.largest) == (("cpu", "metal"), ("mlx",), 60 * 10**9)
    assert (studio.parallel, studio.real_bytes, box.parallel) == (8, 30 * 10**9, 4)
    assert studio.pairs("tiny-llama") == (("What is a slot?", "A port."),) and studio.pairs("llama") == ()
    assert testing.Testing.from_dict(json.loads(json.dumps(studio.to_dict()))) == studio


@pytest.mark.parametrize(
    "text, said",
    [
        ("\nlargets = 1", "testing.toml:2: largets: unknown key"),
        ('largest = "4 pounds"', "testing.toml:1: largest: '4 pounds' is not a number with a unit"),
        ("\n\nparallel = 0", "testing.toml:3: parallel: must be 1 or more"),
        ('engines = ["tensorrt"]', "testing.toml:1: engines: 'tensorrt' is not one of llamacpp"),
        ('backends = ["abacus"]', "testing.toml:1: backends: 'abacus' is not one of cpu"),
        ('time = "soon"', "testing.toml:1: time: 'soon' is not a number"),
        ("[hosts.nobody]\n", "testing.toml:1: hosts.nobody: there is no such host"),
        ("[hosts.studio]\ntime = 1\nquestions = 1", "testing.toml:3: hosts.studio.questions: unknown key"),
        ('[[questions]]\nfile = "qa.toml"', "testing.toml:1: questions[0].models: must name models"),
        ('[[questions]]\nmodels = ["*"]', "testing.toml:1: questions[0].file: must name a file"),
        ('[[questions]]\nmodels = ["*"]\nfile = "none.toml"', "testing.toml:3: questions[0].file: "),
        ('[[questions]]\nmodels = ["*"]\nfile = "empty.toml"', "has no [[pairs]] of question and answer"),
        ("largest = 4 GB", "testing.toml:1: not TOML"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError) as error:
        testing.load(write(tmp_path, text), {"studio": None})
    assert said in error.value.message
