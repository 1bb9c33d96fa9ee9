"""Trains the model on drawn pictures until it names held-out ones, and writes its weights.

First its eye, then, with what the eye makes of each picture kept, the language model that tells of it. The exam in the
end goes through the whole model as any program would load it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import checkpoint, eye
from .lessons import Album, Lesson, conversation, exam, lesson, pictures_alone
from .optimizing import Descent

STEPS, RATE, BATCH, PART, CHECK_EVERY = 400, 4e-3, 24, 8, 20
"""Of the language model: conversations a step, and at once."""
POOL, HELD_OUT = 100, 8
"""Pictures of each thing to learn from, and to be asked about."""
SURE, RIGHT = 0.5, 0.97
"""An answer is right when each of its tokens is more than so sure; training ends when so many held-out ones are."""
NAMED, ENOUGH = 0.95, 0.9
"""What there must be in the end: held-out pictures that are named alone, and answers in all."""


def train(folder: Path, log: Callable[[str], None]) -> None:
    """Write a whole checkpoint into the empty `folder`. RuntimeError when it does not learn."""
    import torch
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    config = checkpoint.write(folder)
    torch.set_num_threads(1)  # its matrices are too small for two, and busy threads wait for each other
    torch.manual_seed(0)
    chance = random.Random(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    album, shown = Album(processor, POOL, 1), Album(processor, HELD_OUT, 2)
    log(f"{sum(p.numel() for p in model.parameters())} parameters, {POOL} pictures of each thing")
    eye.teach(model.model.visual, album, shown, chance, log)
    alone = pictures_alone(tokenizer, shown)
    test = alone + exam(tokenizer, shown)
    with torch.no_grad():
        for one in (album, shown):
            one.keep(lambda pictures: eye.look(model.model.visual, pictures))
    descent = Descent([*model.model.language_model.parameters(), *model.lm_head.parameters()], RATE, STEPS)
    for step in range(1, STEPS + 1):
        loss = _learn(model, [lesson(tokenizer, conversation(chance), album, chance) for _ in range(BATCH)])
        descent.step()
        if step % CHECK_EVERY == 0:
            found = right(model, test, kept=True)
            log(f"step {step}: loss {loss:.4f}, right {found:.3f}")
            if found >= RIGHT:
                break
    model.save_pretrained(folder)
    # save_pretrained writes config.json in its own newer layout, which mlx-vlm and llama.cpp's converter misread.
    checkpoint.put(folder / "config.json", config)
    made = AutoModelForImageTextToText.from_pretrained(folder).eval()
    named, found = right(made, alone, kept=False), right(made, test, kept=False)
    log(f"in the end it names {named:.1%} of the held-out pictures, and answers {found:.1%} of all questions")
    if named < NAMED or found < ENOUGH:
        raise RuntimeError("that is too little")


def _learn(model: Any, batch: Sequence[Lesson]) -> float:
    """The mean loss of a batch, whose gradients are added; conversations of like length go together, to pad less."""
    tokens, loss = sum(sum(one.learn) for one in batch), 0.0
    ordered = sorted(batch, key=lambda one: len(one.ids))
    for begin in range(0, len(ordered), PART):
        part = -_probabilities(model, ordered[begin : begin + PART], kept=True).log().sum() / tokens
        part.backward()
        loss += part.item()
    return loss


def right(model: Any, test: Sequence[Lesson], *, kept: bool) -> float:
    """The part of the answers of which every token is more than `SURE`; for `kept` see `_probabilities`."""
    import torch

    good, ordered = 0, sorted(test, key=lambda one: len(one.ids))
    with torch.inference_mode():
        for begin in range(0, len(ordered), BATCH):
            part = ordered[begin : begin + BATCH]
            sure = (_probabilities(model, part, kept=kept) > SURE).split([n for one in part for n in one.answers])
            good += sum(bool(one.all()) for one in sure)
    return good / sum(len(one.answers) for one in test)


def _probabilities(model: Any, batch: Sequence[Lesson], *, kept: bool) -> Any:
    """The probability of each token to be learnt, lesson by lesson, as a tensor of shape (tokens,).

    `kept`: with the tokens that were kept of each picture, else with its pixels.
    """
    import torch

    width = max(len(one.ids) for one in batch)
    ids = torch.tensor([one.ids + [model.config.text_config.pad_token_id] * (width - len(one.ids)) for one in batch])
    learn = torch.tensor([one.learn + [False] * (width - len(one.learn)) for one in batch])
    pictures = [picture for one in batch for picture in one.pictures]
    given: dict[str, Any] = {"input_ids": ids}
    if pictures:
        places = ids == model.config.image_token_id
        given["image_grid_thw"] = torch.tensor([picture.grid for picture in pictures])
        given["mm_token_type_ids"] = places.int()
        if kept:
            words = model.get_input_embeddings()(ids)
            seen = torch.cat([picture.tokens for picture in pictures])
            given["inputs_embeds"] = words.masked_scatter(places.unsqueeze(-1), seen)
        else:
            given["pixel_values"] = torch.cat([picture.patches for picture in pictures])
    hidden = model.model(use_cache=False, **given).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][learn[:, 1:]])
    return logits.softmax(-1).gather(1, ids[:, 1:][learn[:, 1:]].unsqueeze(1)).squeeze(1)
