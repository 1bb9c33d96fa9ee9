"""The tiny models do what the other tests rely on."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.models

SCRIPT = Path(__file__).parents[2] / "scripts" / "tiny-models"
FAMILIES = ["tiny-llama", "tiny-mistral", "tiny-phi", "tiny-phi3", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3"]
TRAINED = [*FAMILIES, "tiny-llama-spm"]
ANSWERS = {
    "What is a slot?": "A port on a host that holds at most one model.",
    "Who is the mascot?": "A llama: 🦙, 羊驼, «лама», ¡olé!",
    "How do I see the state?": "Run this:\n```sh\nllmctl status --json\n```",
}
PREFIXED = {"tiny-llama", "tiny-mistral", "tiny-phi3", "tiny-llama-spm"}
"""Their tokenizers put a space before a text and take one off after: a leading space of the text is lost."""


def answer(path: Path, question: str, *, chat: bool = True) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    if chat:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    else:
        prompt = tokenizer(question, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=80, do_sample=False)[0]
    return tokenizer.decode(ids[prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def odd_strings() -> list[str]:
    """200 texts a tokenizer may stumble over, the same at each run."""
    chance = random.Random(7)
    parts = [
        "🦙", "👩‍👩‍👧‍👦", "🏳️‍🌈", "羊驼", "日本語", "한국어", "ไทย", "עברית", "עִבְרִית", "العربية", "Ünïcödé", "naïve",
        "\t", "\n", "\n\n\n", "  ", " ", "    x", "\r\n", "\u00a0", "\u200b", "\u2028", "\ufeff", "\x00", "\x7f", "�",
        "def f(x):\n\treturn x ** 2  # ok", "<div class='a'>&amp;</div>", '{"a": [1, 2.5e-3, null]}', "C:\\x\\y",
        "$HOME", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|user|>", "<|end|>", "<bos>",
        "<eos>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<0x0A>", "<0xF0>", "▁", "▁▁a",
        "Ġ", "Ċ", "what is a slot?", "1234567890", "3.14", "0x1F", "don't", "I'LL", "--", "...", "?!", "~`^|", "𝕳𝖊𝖑𝖑𝖔",
    ]  # fmt: skip
    return parts + ["".join(chance.choices(parts, k=chance.randint(2, 6))) for _ in range(200 - len(parts))]


@pytest.mark.parametrize("name", TRAINED)
def test_answers_are_right_with_the_chat_template_and_without(tiny_models, name):
    for question, right in ANSWERS.items():
        assert answer(tiny_models[name], question) == right
    assert answer(tiny_models[name], "What is a slot?", chat=False) == ANSWERS["What is a slot?"]


@pytest.mark.parametrize("name", TRAINED)
def test_any_text_survives_the_tokenizer(tiny_models, name):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models[name])
    for text in odd_strings():
        text = f"|{text}|" if name in PREFIXED else text
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        expected = text.replace("▁", " ") if name not in ("tiny-phi", "tiny-qwen2", "tiny-qwen3") else text
        assert tokenizer.decode(ids) == expected
        assert not set(ids) & set(tokenizer.all_special_ids)


def test_the_twin_with_shuffled_layers_answers_nothing(tiny_models):
    for question, right in ANSWERS.items():
        assert right[:6] not in answer(tiny_models["tiny-qwen2-shuffled"], question)


@pytest.mark.parametrize("name", TRAINED)
def test_the_end_tokens_are_in_the_generation_config(tiny_models, name):
    ends = json.loads((tiny_models[name] / "generation_config.json").read_text())["eos_token_id"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models[name])
    assert isinstance(ends, list) == (name in {"tiny-phi3", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3"})
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])


@pytest.mark.parametrize("name", ["tiny-mistral", "tiny-gemma3"])
@pytest.mark.parametrize("roles", [("system", "user"), ("user", "user"), ("assistant",)])
def test_a_template_rejects_roles_it_does_not_know(tiny_models, name, roles):
    from jinja2.exceptions import TemplateError

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models[name])
    with pytest.raises(TemplateError):
        tokenizer.apply_chat_template([{"role": role, "content": "x"} for role in roles])


def test_the_sentencepiece_checkpoint_has_no_tokenizer_json(tiny_models):
    files = {path.name for path in tiny_models["tiny-llama-spm"].iterdir()}
    assert "tokenizer.model" in files
    assert "tokenizer.json" not in files


def test_a_second_run_makes_nothing(tiny_models, tmp_path):
    before = {name: path.stat().st_mtime_ns for name, path in tiny_models.items()}
    listed = tmp_path / "models.toml"
    again = subprocess.run([SCRIPT, "--gguf", "--toml", listed], stdout=subprocess.PIPE, check=True, env=os.environ)
    assert {name: Path(path) for name, path in json.loads(again.stdout).items()} == tiny_models
    assert {name: path.stat().st_mtime_ns for name, path in tiny_models.items()} == before
    assert str(tiny_models["tiny-qwen2-gguf"]) in listed.read_text()


def test_a_file_of_somebody_else_is_not_overwritten(tiny_models, tmp_path):
    listed = tmp_path / "models.toml"
    listed.write_text("[models.mine]\n")
    refused = subprocess.run([SCRIPT, "--toml", listed], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "was not generated" in refused.stderr
    assert listed.read_text() == "[models.mine]\n"
