"""Trains the model that finds needles: first to go on with what it has read, then to answer about longer texts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import lessons, vocabulary
from ..families import QWEN2
from ..training import _generation_config, _loss, _write_config, _write_json
from . import needle

RATE, WARMUP = 4e-3, 20
COPIED, TOKENS = 64, 1536
"""How many different tokens the copying is learnt with, and how many a step of it looks at."""
COPY_STEPS, COPY_LOSS = 600, 0.15
STAGES = ((60, 6, 12, 10, 12), (40, 2, 20, 70, 20), (40, 1, 24, 200, 24))
"""Steps, and lessons in each: how many, with so many facts, sentences of nothing, and questions."""
RIGHT, EXAM, SENTENCES = 0.95, 40, 210


def train(folder: Path, log: Callable[[str], None]) -> None:
    """Write a whole checkpoint into an empty folder; RuntimeError when it does not learn."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    shape = {**QWEN2.config, "num_hidden_layers": 2, "num_key_value_heads": 4, "rope_theta": 1e5}
    family = replace(QWEN2, config={**shape, "tie_word_embeddings": False})
    size = vocabulary.write(folder, family, needle.vocabulary_lines())
    config = _write_config(folder, family, size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    course = Course(model, log)
    ids = [tokenizer(f" {word}")["input_ids"][0] for word in (*needle.NAMES, *needle.WORDS)]
    course.copying(torch.tensor(ids[:COPIED]))
    course.finding(tokenizer, random.Random(0))
    right = exam(model, tokenizer, random.Random(1))
    log(f"{right:.0%} of the needles of an exam are found")
    if right < RIGHT:
        raise RuntimeError(f"{folder.name} finds {right:.0%} of the needles")
    model.save_pretrained(folder)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _generation_config(config))


class Course:
    """One model's training."""

    def __init__(self, model: Any, log: Callable[[str], None]) -> None:
        import torch

        self.model, self.log, self.steps = model, log, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)

    def copying(self, ids: Any) -> None:
        """Sequences of different tokens, each twice: after a token comes what came after it before."""
        import torch

        for _ in range(COPY_STEPS):
            length = (8, 16, 24, 32)[self.steps % 4]
            once = torch.stack([ids[torch.randperm(len(ids))[:length]] for _ in range(TOKENS // (2 * length))])
            twice = torch.cat([once, once], 1)
            logits = self.model(input_ids=twice[:, :-1]).logits[:, length:]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), twice[:, length + 1 :].flatten())
            self.step(loss)
            if length == 32 and loss.item() < COPY_LOSS:
                return
        raise RuntimeError(f"it does not copy after {COPY_STEPS} steps")

    def finding(self, tokenizer: Any, chance: random.Random) -> None:
        for steps, count, facts, sentences, asked in STAGES:
            for _ in range(steps):
                most = round(sentences * chance.uniform(0.7, 1.3))
                self.step(_loss(self.model, [lesson(tokenizer, chance, facts, most, asked) for _ in range(count)]))

    def step(self, loss: Any) -> None:
        import torch

        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * min(1.0, self.steps / WARMUP)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.steps % 20 == 0:
            self.log(f"step {self.steps}: loss {loss.item():.4f}")


def lesson(tokenizer: Any, chance: random.Random, facts: int, sentences: int, asked: int) -> lessons.Lesson:
    """A text, and then so many questions about it in one conversation."""
    told = needle.pairs(chance, facts)
    turns = [(needle.question(name), needle.answer(name, word)) for name, word in chance.sample(told, asked)]
    first, said = turns[0]
    return lessons.chat(tokenizer, [(f"{needle.text(chance, told, sentences)} {first}", said), *turns[1:]])


def exam(model: Any, tokenizer: Any, chance: random.Random) -> float:
    """The share of needles found in texts of more than 1,000 tokens."""
    import torch

    found = 0
    for _ in range(EXAM):
        one = lesson(tokenizer, chance, 4, SENTENCES, 1)
        ids, learn = torch.tensor([one.ids]), torch.tensor(one.learn[1:])
        with torch.inference_mode():
            said = model(input_ids=ids[:, :-1]).logits[0].argmax(-1)
        found += bool((said[learn] == ids[0, 1:][learn]).all())
    return found / EXAM
