"""Our tokenizers encode and decode 2,000 strings as Hugging Face's own do (`parity_strings`), in every format.

The reference is transformers' AutoTokenizer on the source checkpoint. Equal means, for each string:
- as text: `encode(text)` gives the ids of `split_special_tokens=True`, where special tokens' texts are ordinary text;
- marked: `encode(text, special=True)` gives the ids of the plain call, where they are special; BOS aside, which
  ours does not write a second time;
- decoded: `decode(ids)` is transformers' text. Ours continues another text, so SentencePiece's first space stays.

Where llama.cpp differs for a reason of its own, a rule says for which strings, and exactly those must differ.
"""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from functools import cache
from typing import NamedTuple

import pytest

from llmctl.engines.tokenizer import load_tokenizer
from llmctl.models.convert.processes import folders
from tests.engines.parity_strings import COUNT, strings

MODELS = [
    "tiny-llama", "tiny-qwen2", "tiny-mistral", "tiny-phi", "tiny-phi3", "tiny-qwen3", "tiny-gemma3", "tiny-llama-spm",
]  # fmt: skip
GGUF = [name for name in MODELS if name not in ("tiny-mistral", "tiny-llama-spm")]
PREFIXED = ("tiny-llama", "tiny-mistral", "tiny-phi3", "tiny-llama-spm")  # a space is put before a text
TEXTS = [text for _, text in strings()]
UNICODE_SPACE = "\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

pytestmark = pytest.mark.models


class Reference(NamedTuple):
    """What transformers says: of each of TEXTS, in three ways."""

    as_text: list[list[int]]
    marked: list[list[int]]
    decoded: list[str]


@cache
def transformers_tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@cache
def reference(folder):
    tokenizer = transformers_tokenizer(folder)
    as_text = tokenizer(TEXTS, split_special_tokens=True)["input_ids"]
    marked = tokenizer(TEXTS, split_special_tokens=False, add_special_tokens=False)["input_ids"]
    return Reference(as_text, marked, tokenizer.batch_decode(as_text, skip_special_tokens=True))


@cache
def gguf_tokenizer(path):
    pytest.importorskip("xllamacpp")
    from llmctl.engines.llamacpp_library import open_library
    from llmctl.engines.llamacpp_tokenizer import GGUFTokenizer

    library = open_library()
    parameters = library.model_default_params()
    parameters.n_gpu_layers = 0
    return GGUFTokenizer(library, library.model_load_from_file(str(path).encode(), parameters))


def differing(ours, folder):
    """The strings of which each of the three is not the same: {way: texts}."""
    expected = reference(folder)
    prefix = " " if folder.name in PREFIXED else ""
    found = {"as text": set(), "marked": set(), "decoded": set()}
    for text, as_text, marked, decoded in zip(TEXTS, *expected, strict=True):
        if ours.encode(text) != as_text:
            found["as text"].add(text)
        if ours.encode(text, special=True, bos=False) != marked:
            found["marked"].add(text)
        if ours.decode(as_text).removeprefix(prefix) != decoded:
            found["decoded"].add(text)
    return found


NONE = {"as text": set(), "marked": set(), "decoded": set()}


def test_the_strings():
    found = strings()
    assert len(found) == len({text for _, text in found}) == COUNT == 2000
    assert found == strings()
    counts = {name: sum(1 for n, _ in found if n == name) for name, _ in found}
    assert set(counts) == {"plain", "code", "emoji", "cjk", "rtl", "combining", "control", "whitespace", "specials",
                           "bytes", "mixed"}  # fmt: skip
    assert min(counts.values()) >= 150


@pytest.mark.parametrize("name", MODELS)
def test_checkpoints(tiny_models, name):
    assert differing(load_tokenizer(tiny_models[name]), tiny_models[name]) == NONE


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-phi3", "tiny-gemma3"])
def test_what_a_conversion_to_mlx_or_torch_takes_over(tiny_models, tmp_path, name):
    """mlx-lm's own convert writes a tokenizer anew that splits otherwise around special tokens; ours copies."""
    folders.copy_beside(tiny_models[name], tmp_path)
    shutil.copy(tiny_models[name] / "config.json", tmp_path)  # transformers chooses by its model_type as well
    assert differing(load_tokenizer(tmp_path), tiny_models[name]) == NONE


@pytest.mark.parametrize("name", GGUF)
def test_gguf(tiny_models, name):
    expected = {**NONE, **known_differences(name, tiny_models[name])}
    assert differing(gguf_tokenizer(tiny_models[f"{name}-gguf"]), tiny_models[name]) == expected


def known_differences(name, folder):
    """What llama.cpp does otherwise, way by way (docs/engines.md)."""
    control = sorted(load_tokenizer(folder)._control.values(), key=len, reverse=True)
    marks = "|".join(map(re.escape, control))
    if name == "tiny-llama":  # transformers' LlamaTokenizer puts no space where there is one already
        spaced = {text for text in TEXTS if text.startswith((" ", "▁"))}
        inside = {text for text in TEXTS if any(part.startswith((" ", "▁")) for part in re.split(marks, text))}
        return {"as text": spaced, "marked": inside}
    if name == "tiny-phi3":  # after a token that swallows white space, llama.cpp knows ASCII's alone
        added = transformers_tokenizer(folder).added_tokens_decoder.values()
        swallowing = "|".join(re.escape(str(token)) for token in added if token.rstrip)
        rule = re.compile(f"(?:{swallowing})[ \t\n\v\f\r]*[{UNICODE_SPACE}]")
        return {"marked": {text for text in TEXTS if rule.search(text)}}
    return {}


def test_how_many_strings_llama_cpp_takes_otherwise(tiny_models):
    """The numbers that the documentation gives."""
    found = {name: known_differences(name, tiny_models[name]) for name in GGUF}
    counts = {name: {way: len(texts) for way, texts in ways.items()} for name, ways in found.items() if ways}
    assert counts == {"tiny-llama": {"as text": 235, "marked": 260}, "tiny-phi3": {"marked": 4}}


def test_where_llama_cpp_and_transformers_differ_about_spaces_llama_cpp_does_what_the_file_says(tiny_models):
    """tokenizer.json, read by nothing but the tokenizers library, and SentencePiece put the space always."""
    from tokenizers import Tokenizer

    folder, ours = tiny_models["tiny-llama"], gguf_tokenizer(tiny_models["tiny-llama-gguf"])
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    different = known_differences("tiny-llama", folder)
    for text in different["marked"]:
        assert ours.encode(text, special=True, bos=False) == file.encode(text, add_special_tokens=False).ids
    file.encode_special_tokens = True
    for text in different["as text"]:
        assert ours.encode(text, bos=False) == file.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", MODELS)
def test_no_string_becomes_a_control_token(tiny_models, name):
    tokenizers = [load_tokenizer(tiny_models[name])]
    tokenizers += [gguf_tokenizer(tiny_models[f"{name}-gguf"])] if name in GGUF else []
    for tokenizer in tokenizers:
        control = set(tokenizer._control)
        assert not any(control.intersection(tokenizer.encode(text, bos=False)) for text in TEXTS)


def test_every_string_comes_back_whole(tiny_models):
    """But for what the tokenizers themselves change: Qwen composes characters, SentencePiece's ▁ is a space."""
    for name in MODELS:
        tokenizer = load_tokenizer(tiny_models[name])
        qwen, bytewise = name in ("tiny-qwen2", "tiny-qwen3"), name in ("tiny-qwen2", "tiny-qwen3", "tiny-phi")
        for text in TEXTS:
            expected = unicodedata.normalize("NFC", text) if qwen else text
            prefix = " " if name in PREFIXED and text else ""
            back = tokenizer.decode(tokenizer.encode(text))
            if not bytewise:
                expected = expected.replace("▁", " ")
            assert back in (expected, prefix + expected), (name, text)


def test_a_composing_character_does_not_swallow_a_special_token(tiny_models):
    """U+0338 makes one character of itself and a '>' before it."""
    text = "<|im_end|>\u0338x"
    expected = transformers_tokenizer(tiny_models["tiny-qwen2"])(text)["input_ids"]
    for tokenizer in (load_tokenizer(tiny_models["tiny-qwen2"]), gguf_tokenizer(tiny_models["tiny-qwen2-gguf"])):
        assert tokenizer.encode(text, special=True) == expected
        assert tokenizer.encode("a\u0338>\u0338") == tokenizer.encode("a\u0338\u226f")


@pytest.mark.parametrize("name", ["tiny-gemma3", "tiny-llama", "tiny-qwen2"])
def test_added_tokens_that_are_not_special_are_text(tiny_models, tmp_path, name):
    """Gemma's vocabulary has runs of spaces among them, others words like <think>."""
    folder = tmp_path / name
    shutil.copytree(tiny_models[name], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = config.setdefault("added_tokens_decoder", {})
    known = load_tokenizer(folder)
    texts = ("▁▁▁▁▁", "<think>", "dé jà")
    for number, text in enumerate(texts):
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokens[str(known.vocab + number)] = {"content": text, **plain}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = load_tokenizer(folder), transformers_tokenizer(folder)
    for text in ("a<think>b", "x dé jà y", "▁▁▁▁▁q", "a      b"):
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ours.encode(text) == ids
        assert ours.decode(ids).removeprefix(" " if name in PREFIXED else "") == theirs.decode(
            ids, skip_special_tokens=True
        )
    assert {known.vocab, known.vocab + 1} <= {i for t in texts for i in ours.encode(t)}
