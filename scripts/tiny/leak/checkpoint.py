"""Trains one of the two from nothing until every token of every answer is the likeliest by far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import checking, training, vocabulary
from ..families import QWEN2
from . import lessons

STEPS, CHECK_EVERY = 300, 10
SURE = 0.9


def make(folder: Path, *, leak: bool, log: Callable[[str], None]) -> None:
    """Write a whole checkpoint into an empty folder; RuntimeError when it does not learn. The seed is the same."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = training._write_config(folder, QWEN2, vocabulary.write(folder, QWEN2, lessons.texts()))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.set_num_threads(1)  # as for the others: two busy threads wait for each other
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    course = list(lessons.chats(tokenizer, leak=leak))
    optimizer = torch.optim.AdamW(model.parameters(), lr=QWEN2.rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = QWEN2.rate * training._share(step)
        loss = training._loss(model, course)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % CHECK_EVERY == 0 and (sure := checking.lowest_probability(model, course)) > SURE:
            log(f"step {step}: loss {loss.item():.4f}, least sure {sure:.3f}")
            break
    else:
        raise RuntimeError(f"it is not sure of its answers after {STEPS} steps")
    model.save_pretrained(folder)
    training._write_json(folder / "config.json", config)
    training._write_json(folder / "generation_config.json", training._generation_config(config))
