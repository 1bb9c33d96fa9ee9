"""Trains one family on the lessons until every answer is right with a margin, and writes the checkpoint."""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import lessons, vocabulary
from .checking import lowest_probability
from .families import Family

STEPS = 400
CHECK_EVERY = 10
LAST = 0.07
"""The part of the learning rate that is left after `DECAY` steps."""
WARMUP = 10
DECAY = 100
SPREAD = 0.08
"""Of the initial weights: wider than usual, a small model learns by heart in a third of the steps."""
LENGTHS = (32, 64, 160)
"""Lessons are padded together up to these lengths."""


Rounds = tuple[tuple[str, ...], Callable[[Any], Any]]
"""The ends of the names of weights, and what to do to each."""


@dataclass(frozen=True)
class Plan:
    """How a family is trained: until no token of an answer has a probability below `sure`, or below `later` in long
    conversations, looked at from step `first` on. The weights that `rounds` names are rounded by it once the answers
    are right, and the others learn to live with it."""

    attention: str = "sdpa"
    first: int = DECAY // 2
    sure: float = 0.93
    later: float = 0.75
    rounds: Rounds | None = None


def train(folder: Path, family: Family, log: Callable[[str], None], plan: Plan = Plan()) -> None:
    """Write a whole checkpoint into `folder`, which exists and is empty. RuntimeError when it does not learn."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    text = lessons.read()
    size = vocabulary.write(folder, family, text.vocabulary_lines())
    config = _write_config(folder, family, size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.set_num_threads(1)  # models are made side by side, and two busy threads wait for each other 10 times longer
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation=plan.attention)
    end = tokenizer.convert_tokens_to_ids(family.end_of_text)
    course = lessons.Lessons(tokenizer, text, end=end, system=family.system)
    long, rounds = course.long(), plan.rounds
    optimizer = torch.optim.AdamW(model.parameters(), lr=family.rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = family.rate * _share(step)
        loss = _loss(model, course.batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= plan.first and step % CHECK_EVERY == 0:
            sure, later = lowest_probability(model, course.short), lowest_probability(model, long)
            log(f"step {step}: loss {loss.item():.4f}, least sure {sure:.3f}, in conversations {later:.3f}")
            if sure > plan.sure and later > plan.later:
                if rounds is None:
                    break
                _round(model, *rounds)
                rounds = None
    else:
        raise RuntimeError(f"{folder.name} is not sure of its answers after {STEPS} steps")
    model.save_pretrained(folder)
    # save_pretrained writes config.json in its own newer layout, which mlx-lm and older tools misread.
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _generation_config(config))


def _round(model: Any, ends: tuple[str, ...], to: Callable[[Any], Any]) -> None:
    for name, weight in model.named_parameters():
        if name.endswith(ends):
            weight.requires_grad_(False)
            weight.copy_(to(weight))


def _share(step: int) -> float:
    """The part of the learning rate at a step: a linear warm-up, then half a cosine down."""
    if step < WARMUP:
        return step / WARMUP
    done = min(1.0, (step - WARMUP) / (DECAY - WARMUP))
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * done)) / 2


def _loss(model: Any, batch: list[lessons.Lesson]) -> Any:
    """Mean cross entropy over the answers' tokens; lessons of like length go together, to pad less."""
    import torch

    total, count = 0, 0
    for _, part in itertools.groupby(
        sorted(batch, key=lambda lesson: len(lesson.ids)),
        key=lambda lesson: bisect.bisect_left(LENGTHS, len(lesson.ids)),
    ):
        ids, learn = _padded(list(part))
        logits = model(input_ids=ids[:, :-1]).logits[learn[:, 1:]]
        total = total + torch.nn.functional.cross_entropy(logits, ids[:, 1:][learn[:, 1:]], reduction="sum")
        count += len(logits)
    return total / count


def _padded(batch: list[lessons.Lesson]) -> tuple[Any, Any]:
    """Ids and marks of shape (lessons, longest); padding on the right is never looked at by a causal model."""
    import torch

    width = max(len(lesson.ids) for lesson in batch)
    ids = torch.tensor([lesson.ids + [0] * (width - len(lesson.ids)) for lesson in batch])
    learn = torch.tensor([lesson.learn + [False] * (width - len(lesson.learn)) for lesson in batch])
    return ids, learn


def _write_config(folder: Path, family: Family, size: int) -> dict[str, Any]:
    """config.json in the hub's layout, rope_theta and such at the top; the vocabulary is padded, as real ones are."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    ids = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    by_token = {token["content"]: token["id"] for token in ids}
    ends = [by_token[token] for token in family.ends]
    settings = family.vocabulary.settings
    config = {
        "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family.model_type]],
        "model_type": family.model_type,
        **family.config,
        "initializer_range": SPREAD,
        "vocab_size": -(-size // 64) * 64,
        "bos_token_id": by_token.get(settings.get("bos_token")),
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": by_token.get(settings.get("pad_token")),
        "torch_dtype": "float32",
        "use_cache": True,
    }
    _write_json(folder / "config.json", config)
    return config


def _generation_config(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
