"""Attention over the engine's own KV cache, registered with transformers as the attention named "llmctl".

Grouped-query attention (2305.13245) is computed without repeating keys: in a decode step the query heads that share a
key head are laid out as that head's query rows. Where no row needs a mask none is made, so batch 1 pays for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmctl.engines.torch_cache import KVCache

NAME = "llmctl"

Tensor = Any


def register() -> None:
    """Make the attention known to transformers; without a mask function of the same name it prepares no masks."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


@dataclass
class Pass:
    """`new` tokens for each row of the cache from `first` on, which held `past` tokens each."""

    cache: KVCache
    first: int
    past: Sequence[int]
    new: int
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)
    _places: tuple[Tensor, Tensor] | None = None

    @property
    def longest(self) -> int:
        return max(self.past) + self.new

    @cached_property
    def even(self) -> bool:
        """Whether all rows hold equally many tokens, so that slices reach their ends."""
        return len(set(self.past)) == 1

    def start(self, window: int | None) -> int:
        """The first position that any query of this pass sees."""
        return max(0, min(self.past) + 1 - window) if window else 0

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values; the layer's whole rows up to the longest."""
        last = self.first + len(self.past)
        stored = self.cache.layer(layer, key, value)
        for tensor, fresh in zip(stored, (key, value), strict=True):
            if self.even:
                tensor[self.first : last, :, self.past[0] : self.longest] = fresh
            else:
                rows, ends = self._ends(fresh)
                tensor[rows, :, ends] = fresh[:, :, 0]
        return stored[0][self.first : last, :, : self.longest], stored[1][self.first : last, :, : self.longest]

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The rows and, in each, the place of its new token; made once, since it is a copy to the device."""
        import torch

        if self._places is None:
            rows = torch.arange(self.first, self.first + len(self.past), device=like.device)
            self._places = rows, torch.tensor(self.past, device=like.device)
        return self._places

    def mask(self, window: int | None, like: Tensor) -> Tensor | None:
        """What to add to the scores, shape [rows, 1, new, positions from `start`]; None when every query sees all."""
        if window not in self._masks:
            self._masks[window] = self._mask(window, like)
        return self._masks[window]

    def _mask(self, window: int | None, like: Tensor) -> Tensor | None:
        import torch

        start = self.start(window)
        if self.new == 1 and self.even:
            return None
        keys = torch.arange(start, self.longest, device=like.device)
        queries = torch.tensor(self.past, device=like.device)[:, None] + torch.arange(self.new, device=like.device)
        seen = keys <= queries[:, :, None]
        if window:
            seen &= keys > queries[:, :, None] - window
        hidden = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))
        return hidden[:, None]


@dataclass(frozen=True)
class Flat:
    """Several passes in one: their tokens stand in one row, one pass after another, each's rows one after another.

    All but attention looks at one token at a time, so nothing is computed for padding.
    """

    passes: Sequence[Pass]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    *,
    forward: Pass | Flat,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [rows, heads, new, dim] in, [rows, new, heads, dim] out."""
    import torch

    window = options["sliding_window"] if "sliding_window" in options else configured_window(module)
    if isinstance(forward, Pass):
        return _attend(module.layer_idx, query, key, value, scaling, softcap, s_aux, forward, window), None
    outs, at = [], 0
    for one in forward.passes:
        rows, end = len(one.past), at + len(one.past) * one.new
        q, k, v = (t[0, :, at:end].unflatten(1, (rows, one.new)).transpose(0, 1) for t in (query, key, value))
        out = _attend(module.layer_idx, q, k, v, scaling, softcap, s_aux, one, window)
        outs.append(out.reshape(1, rows * one.new, *out.shape[2:]))
        at = end
    return torch.cat(outs, dim=1), None


def _attend(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    softcap: float | None,
    s_aux: Tensor | None,
    forward: Pass,
    sliding_window: int | None,
) -> Tensor:
    """Write keys and values of one pass and attend over what its rows hold then."""
    from torch.nn.functional import scaled_dot_product_attention

    keys, values = forward.update(layer, key, value)
    start = forward.start(sliding_window)
    if start:
        keys, values = keys[:, :, start:], values[:, :, start:]
    rows, heads, new, _dim = query.shape
    shared = heads // key.shape[1]
    if softcap is not None or s_aux is not None:
        mask = forward.mask(sliding_window, query)
        out = _by_hand(query, keys, values, mask, scaling, softcap, s_aux)
    elif new == 1:
        mask = forward.mask(sliding_window, query)
        grouped = query.reshape(rows, key.shape[1], shared, query.shape[-1])
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
        out = out.reshape(rows, heads, 1, values.shape[-1])
    else:
        whole = forward.past[0] == 0 and (sliding_window is None or new <= sliding_window)
        mask = None if whole else forward.mask(sliding_window, query)
        out = scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=whole, scale=scaling, enable_gqa=shared > 1
        )
    return out.transpose(1, 2)


def configured_window(module: Any) -> int | None:
    """The sliding window of a layer that leaves it to the mask (Phi-MoE does)."""
    config, layer = module.config, module.layer_idx
    types = getattr(config, "layer_types", None)
    sliding = types is None or types[layer] == "sliding_attention"
    window: int | None = getattr(config, "sliding_window", None)
    return window if sliding else None


def _by_hand(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention with capped scores (Gemma 2, 2408.00118) or a learned sink per head (gpt-oss), in plain steps."""
    import torch

    shared = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(shared, dim=1), values.repeat_interleave(shared, dim=1)
    scores = query @ keys.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : keys.shape[2]] @ values
