"""Trains it from nothing until every token of every answer is the likeliest by far."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .. import checking, lessons, training, vocabulary
from ..families import QWEN2
from . import lessons as own

TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' + (m.content or '') }}
{%- for call in m.tool_calls or [] %}
{{- '\\n' if not loop.first or m.content }}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
"""Qwen3's in short; it thinks only when told to."""
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Tokens of their own, but no special ones, as in Qwen3."""
LAYERS, RATE = 3, 4e-3
STEPS, CHECK_FROM, CHECK_EVERY = 400, 40, 20
SURE = 0.8
SLOWER = 2
"""How many times more steps the learning rate takes to fall than for the other models."""


def make(folder: Path, log: Callable[[str], None]) -> None:
    """Write a whole checkpoint into an empty folder; RuntimeError when it does not learn."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    shape = {**QWEN2.config, "num_hidden_layers": LAYERS}
    family = replace(QWEN2, template=TEMPLATE, jinja=True, config=shape, rate=RATE)
    vocabulary.write(folder, family, own.texts())
    size = _add_markers(folder)
    config = training._write_config(folder, family, size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.set_num_threads(1)  # as for the others: two busy threads wait for each other
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    exam = own.exam(tokenizer)
    chance = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=family.rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = family.rate * training._share(round(step / SLOWER))
        loss = training._loss(model, own.packed(tokenizer, chance))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= CHECK_FROM and step % CHECK_EVERY == 0 and _learnt(model, exam, step, loss.item(), log):
            break
    else:
        raise RuntimeError(f"it is not sure of its answers after {STEPS} steps")
    model.save_pretrained(folder)
    training._write_json(folder / "config.json", config)
    training._write_json(folder / "generation_config.json", training._generation_config(config))


def _learnt(model: object, exam: list[lessons.Lesson], step: int, loss: float, log: Callable[[str], None]) -> bool:
    sure = checking.lowest_probability(model, exam)
    log(f"step {step}: loss {loss:.4f}, least sure {sure:.3f}")
    return sure > SURE


def _add_markers(folder: Path) -> int:
    """Add MARKERS to the tokenizer's files; the number of ids."""
    from tokenizers import AddedToken, Tokenizer

    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokens = [AddedToken(marker, special=False, normalized=False) for marker in MARKERS]
    tokenizer.add_tokens(tokens)
    tokenizer.save(str(path))
    settings = folder / "tokenizer_config.json"
    config = json.loads(settings.read_text(encoding="utf-8"))
    for token in tokens:
        config["added_tokens_decoder"][str(tokenizer.token_to_id(token.content))] = vocabulary._as_json(token)
    training._write_json(settings, config)
    return int(tokenizer.get_vocab_size())
