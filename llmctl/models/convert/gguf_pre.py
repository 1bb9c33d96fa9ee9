"""llama.cpp's name for the way a byte-level tokenizer splits a text, found by the tokenizer's own patterns.

Its converter knows tokenizers by a hash of their ids, so that it refuses one that was trained or changed. The split
itself stands in tokenizer.json, and llama.cpp has only so many. A made file is proved by its tokens all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CLITICS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_AHEAD = r"[^\r\n\p{L}\p{N}]?"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
QWEN2 = rf"{_CLITICS}|{_AHEAD}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
QWEN35 = rf"{_CLITICS}|{_AHEAD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
LLAMA3 = rf"{_CLITICS}|{_AHEAD}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
TEKKEN = (
    rf"{_AHEAD}{_UPPER}*{_LOWER}+|{_AHEAD}{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
GPT4O = (
    rf"{_AHEAD}{_UPPER}*{_LOWER}+{_CLITICS}?|{_AHEAD}{_UPPER}+{_LOWER}*{_CLITICS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _SPACES,
)
KNOWN: Mapping[tuple[str, ...], str] = {
    (GPT2,): "gpt-2",
    (DIGIT, GPT2): "smollm",
    (QWEN2,): "qwen2",
    (QWEN35,): "qwen35",
    (LLAMA3,): "smaug-bpe",
    (TEKKEN,): "tekken",
    (GPT4O,): "gpt-4o",
    DEEPSEEK3: "deepseek-v3",
}
WORD_PIECES = "bert-bge"
"""Of BERT's tokenizers, which llama.cpp splits in one way whatever their names."""
WHOLE_WORDS = {"smaug-bpe": "llama-bpe"}
"""The name of the same split where a word of the vocabulary is one token whatever its merges (`ignore_merges`)."""


def name(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the split of a tokenizer.json; None when it is none of KNOWN."""
    if (tokenizer.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer":
        return WORD_PIECES
    patterns = splits(tokenizer.get("pre_tokenizer") or {})
    found = KNOWN.get(tuple(patterns)) if patterns else None
    model = tokenizer.get("model") or {}
    return WHOLE_WORDS.get(found, found) if found and model.get("ignore_merges") else found


def splits(pre_tokenizer: Mapping[str, Any]) -> list[str] | None:
    """Its patterns in order; None when it does anything else."""
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        return _joined(pre_tokenizer.get("pretokenizers") or [])
    if kind == "ByteLevel":
        return None if pre_tokenizer.get("add_prefix_space") else [GPT2] if pre_tokenizer.get("use_regex", True) else []
    if kind == "Digits":
        return [DIGIT] if pre_tokenizer.get("individual_digits") else None
    if kind == "Split" and not pre_tokenizer.get("invert"):
        pattern = (pre_tokenizer.get("pattern") or {}).get("Regex")
        isolated = pre_tokenizer.get("behavior") in ("Isolated", "isolated")
        return [pattern.replace("\r", r"\r").replace("\n", r"\n")] if isolated and isinstance(pattern, str) else None
    return None


def _joined(parts: Sequence[Mapping[str, Any]]) -> list[str] | None:
    found: list[str] = []
    for part in parts:
        patterns = splits(part)
        if patterns is None:
            return None
        found += patterns
    return found
