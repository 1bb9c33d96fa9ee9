"""Filling in the middle: the special tokens of the families that were trained for it, and the prompt they make."""

from __future__ import annotations

from collections.abc import Mapping

from llmctl.domain import GenerateRequest, Tokenizer
from llmctl.errors import RequestError

NAMES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder: the hole stands before what is behind it
)
"""Before the prefix, before the suffix, before the middle."""


def fim_of(ids: Mapping[str, int]) -> tuple[int, int, int] | None:
    """The three tokens in a vocabulary of special ones; None when the model was not made for it."""
    found = next((names for names in NAMES if all(name in ids for name in names)), None)
    return (ids[found[0]], ids[found[1]], ids[found[2]]) if found else None


def fill(request: GenerateRequest, tokenizer: Tokenizer) -> list[int]:
    """The prompt's tokens for a text with a gap between `prompt` and `suffix`."""
    if tokenizer.fim is None:
        raise RequestError("this model was not made to fill a gap before a suffix", param="suffix")
    before, behind, gap = tokenizer.fim
    prompt = request.prompt
    told = tokenizer.encode(prompt, special=True, bos=False) if isinstance(prompt, str) else list(prompt or ())
    suffix = tokenizer.encode(request.suffix or "", special=True, bos=False)
    return [*tokenizer.encode("", special=True), before, *told, behind, *suffix, gap]
