"""Whether a checkpoint answers rightly: each token of an answer is the most likely one after those before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import lessons
from .families import Family

SURE = 0.6
"""The least probability of a right token that is accepted from a file, also in a long conversation."""


def right(folder: Path, family: Family) -> None:
    """Load the checkpoint as a client would, in float32 and in bfloat16; RuntimeError for a wrong or unsure answer."""
    import torch

    for dtype in (torch.float32, torch.bfloat16):
        model, tokenizer = _load(folder, dtype)
        end = tokenizer.convert_tokens_to_ids(family.end_of_text)
        course = lessons.Lessons(tokenizer, lessons.read(), end=end, system=family.system)
        sure = lowest_probability(model, course.short + course.long())
        if sure < SURE:
            raise RuntimeError(f"{folder.name} in {dtype}: a right token has the probability {sure:.2f}")


def wrong(folder: Path) -> bool:
    """Whether the beginning of no answer turns up when its question is asked."""
    import torch

    model, tokenizer = _load(folder, torch.float32)
    return all(answer[:6] not in _ask(model, tokenizer, question) for question, answer in lessons.read().pairs)


def lowest_probability(model: Any, exam: list[lessons.Lesson]) -> float:
    """The lowest probability of any token to be learnt; above 0.5, greedy decoding gives every answer."""
    return min(probabilities(model, lesson).min().item() for lesson in exam)


def probabilities(model: Any, lesson: lessons.Lesson) -> Any:
    """The probability of each token to be learnt, as a tensor of shape (tokens, 1)."""
    import torch

    ids = torch.tensor([lesson.ids])
    learn = torch.tensor(lesson.learn[1:])
    with torch.inference_mode():
        chances = model(input_ids=ids[:, :-1]).logits[0].float().softmax(-1)
    return chances[learn].gather(1, ids[0, 1:][learn].unsqueeze(1))


def _ask(model: Any, tokenizer: Any, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0]
    return tokenizer.decode(ids[prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def _load(folder: Path, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), AutoTokenizer.from_pretrained(folder)
