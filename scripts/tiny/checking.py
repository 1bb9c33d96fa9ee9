"""Whether a checkpoint gives the right answers: each token of an answer is its most likely one, given those before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import lessons


def lowest_probability(model: Any, batch: list[lessons.Lesson]) -> float:
    """The lowest probability that any token to be learnt has."""
    return min(_probabilities(model, lesson).min().item() for lesson in batch)


def _probabilities(model: Any, lesson: lessons.Lesson) -> Any:
    import torch

    ids = torch.tensor([lesson.ids])
    learn = torch.tensor(lesson.learn[1:])
    with torch.inference_mode():
        chances = model(input_ids=ids[:, :-1]).logits[0].float().softmax(-1)
    return chances[learn].gather(1, ids[0, 1:][learn].unsqueeze(1))
