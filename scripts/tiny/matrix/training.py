"""Trains a family as scripts/tiny/training.py does, with the attention that its architecture has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import lessons, vocabulary
from ..checking import lowest_probability
from ..families import Family
from ..training import _generation_config, _loss, _share, _write_config, _write_json

STEPS, CHECK_FROM, CHECK_EVERY = 400, 60, 10
SURE, SURE_LATER = 0.9, 0.7

Rounds = tuple[tuple[str, ...], Callable[[Any], Any]]
"""The ends of the names of weights, and what to do to each."""


def train(folder: Path, family: Family, log: Callable[[str], None], *, rounds: Rounds | None = None) -> None:
    """Write a whole checkpoint into an empty folder; RuntimeError when it does not learn.

    The weights that `rounds` names are rounded by it once the answers are right, and the others learn to live with it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    text = lessons.read()
    size = vocabulary.write(folder, family, text.vocabulary_lines())
    config = _write_config(folder, family, size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
    end = tokenizer.convert_tokens_to_ids(family.end_of_text)
    course = lessons.Lessons(tokenizer, text, end=end, system=family.system)
    long = course.long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=family.rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = family.rate * _share(step)
        loss = _loss(model, course.batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= CHECK_FROM and step % CHECK_EVERY == 0:
            sure, later = lowest_probability(model, course.short), lowest_probability(model, long)
            log(f"step {step}: loss {loss.item():.4f}, least sure {sure:.3f}, in conversations {later:.3f}")
            if sure > SURE and later > SURE_LATER:
                if rounds is None:
                    break
                _round(model, *rounds)
                rounds = None
    else:
        raise RuntimeError(f"{folder.name} is not sure of its answers after {STEPS} steps")
    model.save_pretrained(folder)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _generation_config(config))


def _round(model: Any, ends: tuple[str, ...], to: Callable[[Any], Any]) -> None:
    for name, weight in model.named_parameters():
        if name.endswith(ends):
            weight.requires_grad_(False)
            weight.copy_(to(weight))
