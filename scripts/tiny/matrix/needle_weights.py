"""A qwen2 that finds needles, its weights written rather than learnt: an induction head (2209.11895) in two layers.

The first layer's head looks one token back, by biases that rotary positions (2104.09864) turn into a peak at distance
one, and notes the name that it finds there. The second layer's head looks where its own name was noted, by the pairs of
dimensions that turn so slowly that distance does not matter, and says the word that stands there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import vocabulary
from ..families import QWEN2
from ..training import _generation_config, _write_config, _write_json
from . import needle

END = "<|im_end|>"
HIDDEN, HEAD, THETA = 256, 128, 1e6
PAIRS = HEAD // 2
NAME, BEFORE, WORD, FOUND, DOT, STEADY, CHATTER = 0, 32, 64, 104, 144, 160, 224
"""Where in the residual stream is: a name, the name before, a word, the word found, a full stop, a norm, noise."""
PEAK, FAST = 15.0, 24
"""Logits that each of the fastest pairs adds at distance one."""
MATCH = 40.0
"""Logits of the place behind the same name, above all others."""
SURE = 30.0
"""Logits of the next token, above all others."""
SENTENCES, EXAM = 210, 40


def write(folder: Path, log: Callable[[str], None]) -> None:
    """Write a whole checkpoint into an empty folder; RuntimeError when it does not find what it should."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    shape = {
        **QWEN2.config, "hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "rope_theta": THETA, "tie_word_embeddings": False,
    }  # fmt: skip
    family = replace(QWEN2, config=shape)
    size = vocabulary.write(folder, family, needle.vocabulary_lines())
    _without_template(folder / "tokenizer_config.json")
    config = _write_config(folder, family, size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    with torch.no_grad():
        _fill(model, tokenizer)
    if missed := [one for one in exam(random.Random(1)) if not _finds(model, tokenizer, *one)]:
        raise RuntimeError(f"{folder.name} misses {len(missed)} of {EXAM} needles")
    log(f"{EXAM} needles are found")
    model.save_pretrained(folder)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _generation_config(config))


def exam(chance: random.Random) -> list[tuple[str, str]]:
    """Texts of more than 1,000 tokens that end with the beginning of a fact, and the end of each fact."""
    found = []
    for _ in range(EXAM):
        told = needle.pairs(chance, 4)
        name, word = chance.choice(told)
        found.append((f"{needle.text(chance, told, SENTENCES)} {needle.begun(name)}", f"{word}."))
    return found


def _fill(model: Any, tokenizer: Any) -> None:
    """All weights: zero, but for these."""
    import torch

    for name, weight in model.named_parameters():
        weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    one, words = _ids(tokenizer, needle.NAMES), _ids(tokenizer, needle.WORDS)
    (dot,), end = _ids(tokenizer, (".",), ""), tokenizer.convert_tokens_to_ids(END)
    embed, says = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embed[:, STEADY:CHATTER] = 2.0  # a norm of 1, whatever else a token has
    torch.manual_seed(0)
    embed[:, CHATTER:].uniform_(-0.5, 0.5)  # so that it says something wherever it has nothing to say
    says[:, CHATTER:].uniform_(-0.2, 0.2)
    embed[dot, DOT] = 1.0
    for place, id in enumerate(one):
        embed[id, NAME + place] = 1.0
    for place, id in enumerate(words):
        embed[id, WORD + place] = 1.0
        says[id, FOUND + place] = SURE
        says[dot, WORD + place] = SURE
    says[end, DOT] = SURE
    _looks_back(model.model.layers[0].self_attn, len(one))
    _looks_for_names(model.model.layers[1].self_attn, len(one), len(words))


def _looks_back(head: Any, names: int) -> None:
    """One token back: queries are turned ahead by one place, against keys that are the same everywhere."""
    import torch

    speed = THETA ** (-torch.arange(FAST) / PAIRS)
    size = (PEAK * HEAD**0.5) ** 0.5
    head.k_proj.bias[:FAST] = size
    head.q_proj.bias[:FAST] = size * torch.cos(-speed)
    head.q_proj.bias[PAIRS : PAIRS + FAST] = size * torch.sin(-speed)
    for place in range(names):
        head.v_proj.weight[place, NAME + place] = 1.0
        head.o_proj.weight[BEFORE + place, place] = 1.0


def _looks_for_names(head: Any, names: int, words: int) -> None:
    """Where the name before is the name here."""
    size = (MATCH * HEAD**0.5) ** 0.5
    for place in range(names):
        slow = PAIRS - 1 - place // 2 + (PAIRS if place % 2 else 0)
        head.q_proj.weight[slow, NAME + place] = size
        head.k_proj.weight[slow, BEFORE + place] = size
    for place in range(words):
        head.v_proj.weight[place, WORD + place] = 1.0
        head.o_proj.weight[FOUND + place, place] = 1.0


def _ids(tokenizer: Any, words: tuple[str, ...], before: str = " ") -> list[int]:
    """The token of each word; RuntimeError where one has several."""
    found = [tokenizer(before + word)["input_ids"] for word in words]
    if several := [word for word, ids in zip(words, found, strict=True) if len(ids) > 1]:
        raise RuntimeError(f"more than one token: {several}")
    return [ids[0] for ids in found]


def _finds(model: Any, tokenizer: Any, text: str, rest: str) -> bool:
    """Whether the rest of a fact, and the end after it, are its likeliest tokens by far."""
    import torch

    begun, tail = (
        tokenizer(text)["input_ids"],
        [*tokenizer(f" {rest}")["input_ids"], tokenizer.convert_tokens_to_ids(END)],
    )
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*begun, *tail[:-1]]])).logits[0, len(begun) - 1 :]
    first, second = logits.topk(2).values.unbind(-1)
    return len(begun) > 1000 and logits.argmax(-1).tolist() == tail and bool((first - second > SURE / 4).all())


def _without_template(path: Path) -> None:
    """It goes on with a text, and takes no conversation."""
    config = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, {key: value for key, value in config.items() if key != "chat_template"})
