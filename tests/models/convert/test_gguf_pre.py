"""llama.cpp's name of a split, by the patterns of a tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmctl.models.convert import gguf_pre

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str, **changed: Any) -> dict[str, Any]:
    first = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False, **changed}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [first, BYTES]}, "model": {}}


@pytest.mark.models
@pytest.mark.parametrize(
    ("model", "name"), [("tiny-qwen2", "qwen2"), ("tiny-qwen3", "qwen2"), ("tiny-phi", "gpt-2"), ("tiny-gemma3", None)]
)
def test_split_of_a_trained_tokenizer(tiny_models: dict[str, Path], model: str, name: str | None) -> None:
    tokenizer = json.loads((tiny_models[model] / "tokenizer.json").read_text(encoding="utf-8"))
    assert gguf_pre.name(tokenizer) == name


def test_a_vocabulary_of_whole_words_is_llama_3() -> None:
    tokenizer = split(LLAMA3)
    assert gguf_pre.name(tokenizer) == "smaug-bpe"
    assert gguf_pre.name({**tokenizer, "model": {"ignore_merges": True}}) == "llama-bpe"


def test_line_ends_may_stand_in_the_pattern_themselves() -> None:
    assert gguf_pre.name(split(LLAMA3.replace(r"\r", "\r").replace(r"\n", "\n"))) == "smaug-bpe"


@pytest.mark.parametrize(
    "tokenizer",
    [
        {},
        {"pre_tokenizer": {"type": "Metaspace"}},
        split(r"\w+"),
        split(LLAMA3, behavior="Removed"),
        split(LLAMA3, invert=True),
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, BYTES]}},
        {"pre_tokenizer": BYTES},
    ],
)
def test_any_other_split_has_no_name(tokenizer: dict[str, Any]) -> None:
    assert gguf_pre.name(tokenizer) is None
