"""What a catalog entry says of templates and stop tokens reaches the engines; each in the formats it reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.catalog import Artifact, Catalog, Model
from llmctl.config import Host
from llmctl.domain import EngineSpec
from llmctl.engines import llamacpp
from llmctl.engines.talk import Talk
from llmctl.engines.tokenizer import load_tokenizer
from llmctl.errors import LlmctlError, Unsupported
from llmctl.slots.resolve import Wish, resolve
from tests.models.making import END, make_gguf

SHOUT = "{{ bos_token }}{% for m in messages %}{{ m.content | upper }}{{ ending }}{% endfor %}"
ASK = [{"role": "user", "content": "what is it"}]
Load = Callable[[Talk], Any]


@pytest.fixture(params=["gguf", "folder"])
def load(request: pytest.FixtureRequest, tmp_path: Path, tiny_models: dict[str, Path]) -> Load:
    """load(talk) → the tokenizer of a model whose own template is ChatML."""
    if request.param == "folder":
        return lambda talk: load_tokenizer(tiny_models["tiny-qwen2"], talk=talk)
    path = make_gguf(tmp_path / "m.gguf")

    def load_gguf(talk: Talk) -> Any:
        options = {
            "chat_template": talk.template, "chat_template_name": talk.template_name,
            "chat_template_args": dict(talk.arguments), "stop_ids": list(talk.stop_ids),
        }  # fmt: skip
        spec = EngineSpec("llamacpp", "m", str(path), "gguf", context=64, parallel=1, options=options)
        return llamacpp.load_steps(spec, lambda *told: None).tokenizer

    return load_gguf


def test_a_template_of_the_entry_takes_the_place_of_the_models_own(load: Load) -> None:
    assert "WHAT IS IT!" not in load(Talk()).decode(load(Talk()).chat(ASK))
    tokenizer = load(Talk(template=SHOUT, arguments={"ending": "!"}))
    assert tokenizer.decode(tokenizer.chat(ASK)) == "WHAT IS IT!"


def test_a_template_by_a_name_that_the_model_has_not_is_refused(load: Load) -> None:
    with pytest.raises(Unsupported, match="no chat template named 'tool_use'"):
        load(Talk(template_name="tool_use"))


def test_stop_ids_of_the_entry_end_an_answer_too(load: Load) -> None:
    own = load(Talk()).eos_ids
    more = next(i for i in range(300) if i not in own)
    assert load(Talk(stop_ids=frozenset({more, 10**6}))).eos_ids == own | {more}


def test_an_entry_becomes_options_of_the_engine(tmp_path: Path) -> None:
    path, template = make_gguf(tmp_path / "m.gguf"), tmp_path / "shout.jinja"
    template.write_text(SHOUT)

    def options(**traits: Any) -> Any:
        artifact = Artifact("gguf", path=path, **traits)
        spec = resolve(
            Catalog([Model("m", stop_ids=(5,), artifacts=(artifact,))]), Host("local", backend="cpu"), Wish("m")
        )
        return spec.engine.options, spec.load_timeout

    assert options() == ({"stop_ids": [5]}, 600.0)
    said, timeout = options(
        chat_template=str(template), chat_template_args={"ending": "?"}, stop_ids=(END,), load_timeout=9
    )
    assert said == {"chat_template": SHOUT, "chat_template_args": {"ending": "?"}, "stop_ids": [END]}
    assert timeout == 9 and json.dumps(said)
    assert options(chat_template="tool_use")[0]["chat_template_name"] == "tool_use"
    template.unlink()
    with pytest.raises(LlmctlError, match="cannot be read"):
        options(chat_template=str(template))


def test_one_of_several_named_templates_is_taken(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "named"
    shutil.copytree(tiny_models["tiny-qwen2"], folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": "usual"}, {"name": "shout", "template": SHOUT}]
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    tokenizer = load_tokenizer(folder, talk=Talk(template_name="shout", arguments={"ending": "."}))
    assert tokenizer.decode(tokenizer.chat(ASK)) == "WHAT IS IT."
