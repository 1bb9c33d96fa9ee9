"""The eye (the vision tower) learns to tell colours and shapes apart, with a head that is thrown away.

Most of the training is this, so the pictures of one size are computed as one batch: transformers' own forward pass
takes them one by one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from .drawing import COLOURS, SHAPES, Thing, everything
from .lessons import Album, Seen
from .optimizing import Descent

STEPS, RATE, BATCH, CHECK_EVERY = 500, 4e-3, 48, 25
RIGHT = 0.985


def teach(visual: Any, album: Album, shown: Album, chance: random.Random, log: Callable[[str], None]) -> None:
    """Train the tower until it names held-out pictures; RuntimeError when it does not learn to."""
    import torch

    head = torch.nn.Linear(visual.config.hidden_size, len(COLOURS) + len(SHAPES))
    descent = Descent([*visual.parameters(), *head.parameters()], RATE, STEPS)
    held_out = [(thing, picture) for thing in everything() for picture in shown.pictures[thing]]
    for step in range(1, STEPS + 1):
        things = [chance.choice(everything()) for _ in range(BATCH)]
        loss, _ = _told(visual, head, [(thing, album.pick(thing, chance)) for thing in things])
        loss.backward()
        descent.step()
        if step % CHECK_EVERY == 0:
            with torch.inference_mode():
                found = _told(visual, head, held_out)[1]
            log(f"eye, step {step}: loss {loss.item():.4f}, right {found:.3f}")
            if found >= RIGHT:
                return
    raise RuntimeError(f"its eye names {found:.1%} of the held-out pictures after {STEPS} steps")


def look(visual: Any, pictures: Sequence[Seen]) -> list[Any]:
    """The tokens of each picture, [tokens, width]."""
    found: list[Any] = [None] * len(pictures)
    order = sorted(range(len(pictures)), key=lambda i: pictures[i].grid)
    for _, places in groupby(order, key=lambda i: pictures[i].grid):
        part = list(places)
        for place, tokens in zip(part, _same_size(visual, [pictures[i] for i in part]), strict=True):
            found[place] = tokens
    return found


def _same_size(visual: Any, pictures: Sequence[Seen]) -> Any:
    import torch
    from torch.nn.functional import linear, scaled_dot_product_attention

    count, patches = len(pictures), len(pictures[0].patches)
    hidden = linear(torch.cat([one.patches for one in pictures]), visual.patch_embed.proj.weight.flatten(1))
    turn = _turn(pictures[0].grid, visual)
    for block in visual.blocks:
        parts = block.attn.qkv(block.norm1(hidden)).view(count, patches, 3, block.attn.num_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(turn(query), turn(key), value)
        hidden = hidden + block.attn.proj(seen.transpose(1, 2).reshape(count * patches, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden).view(count, patches // visual.spatial_merge_size**2, -1)


def _turn(grid: tuple[int, int, int], visual: Any) -> Callable[[Any], Any]:
    """Rotary positions in two dimensions: half of the angles are a patch's row, half its column."""
    import torch

    _, rows, columns = grid
    merge, head = visual.spatial_merge_size, visual.config.embed_dim // visual.config.num_heads
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    cells = (rows // merge, merge, columns // merge, merge)
    places = [place.reshape(cells).transpose(1, 2).flatten() for place in (row, column)]
    rates = 10000.0 ** -(torch.arange(0, head // 2, 2) / (head // 2))
    angles = torch.cat([torch.outer(place, rates) for place in places], dim=-1).repeat(1, 2)

    def turned(values: Any) -> Any:
        first, second = values.chunk(2, dim=-1)
        return values * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()

    return turned


def _told(visual: Any, head: Any, pictures: Sequence[tuple[Thing, Seen]]) -> tuple[Any, float]:
    """The loss over these pictures, and which part of them is named rightly."""
    import torch

    tokens = look(visual, [picture for _, picture in pictures])
    parts = head(torch.stack([one.mean(0) for one in tokens])).split([len(COLOURS), len(SHAPES)], dim=1)
    named = ([list(COLOURS).index(t.colour) for t, _ in pictures], [SHAPES.index(t.shape) for t, _ in pictures])
    answers = [torch.tensor(one) for one in named]
    loss = sum(torch.nn.functional.cross_entropy(part, answer) for part, answer in zip(parts, answers, strict=True))
    hits = [part.argmax(1) == answer for part, answer in zip(parts, answers, strict=True)]
    return loss, float((hits[0] & hits[1]).float().mean())
