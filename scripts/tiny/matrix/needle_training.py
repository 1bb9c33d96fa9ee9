"""Trains the model that finds needles: first to go on with what it has read, then to answer about longer texts."""

from __future__ import annotations

import json
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
END = "<|im_end|>"
TOKENS = 1536
"""How many tokens a step of copying looks at."""
COPY_STEPS, COPY_LOSS = 800, 0.3
STAGES = ((40, 5, 16, 8, 16), (30, 2, 24, 70, 24), (40, 1, 28, 200, 28))
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
    _without_template(folder / "tokenizer_config.json")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    ids = [tokenizer(f" {word}")["input_ids"] for word in (*needle.NAMES, *needle.WORDS)]
    course = Course(model, torch.tensor(ids).flatten(), log)
    course.copying()
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

    def __init__(self, model: Any, ids: Any, log: Callable[[str], None]) -> None:
        import torch

        self.model, self.ids, self.log, self.steps = model, ids, log, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)

    def copying(self) -> None:
        """Until after a token comes what came after it before."""
        for _ in range(COPY_STEPS):
            pairs = (4, 8, 12, 16)[self.steps % 4]
            loss = self.copied(pairs, TOKENS)
            self.step(loss)
            if pairs == 16 and loss.item() < COPY_LOSS:
                return
        raise RuntimeError(f"it does not copy after {COPY_STEPS} steps")

    def copied(self, pairs: int, tokens: int) -> Any:
        """The loss over sequences of so many pairs of tokens, and again in another order: of each pair's second."""
        import torch

        rows = []
        for _ in range(tokens // (4 * pairs)):
            once = self.ids[torch.randperm(len(self.ids))[: 2 * pairs]].view(pairs, 2)
            rows.append(torch.cat([once, once[torch.randperm(pairs)]]).flatten())
        ids = torch.stack(rows)
        logits = self.model(input_ids=ids[:, :-1]).logits[:, 2 * pairs :: 2]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 2 * pairs + 1 :: 2].flatten())

    def finding(self, tokenizer: Any, chance: random.Random) -> None:
        """Answer about texts that grow longer; and not forget how to copy."""
        for steps, count, facts, sentences, asked in STAGES:
            for _ in range(steps):
                most = round(sentences * chance.uniform(0.7, 1.3))
                found = _loss(self.model, [lesson(tokenizer, chance, facts, most, asked) for _ in range(count)])
                self.step(found + self.copied(12, TOKENS // 4) / 2)

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
    """A text, and then so many of its facts begun again, each to be ended as the text had it."""
    told = needle.pairs(chance, facts)
    end = tokenizer.convert_tokens_to_ids(END)
    found = lessons.Lesson(tokenizer(needle.text(chance, told, sentences))["input_ids"], [])
    found.learn.extend([False] * len(found.ids))
    for name, word in chance.sample(told, asked):
        begun, rest = tokenizer(f" {needle.begun(name)}")["input_ids"], tokenizer(f" {word}.")["input_ids"]
        found.ids.extend([*begun, *rest, end])
        found.learn.extend([False] * len(begun) + [True] * (len(rest) + 1))
    return found


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


def _without_template(path: Path) -> None:
    """It goes on with a text, and takes no conversation."""
    config = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, {key: value for key, value in config.items() if key != "chat_template"})
