"""What can be done with the caches of a model's layers: start, join, part, cut and check them, for any number of rows.

One sequence alone has mlx-lm's plain caches. Several have its batched ones, where the shorter rows begin with padding
that the mask hides; keys and values of 8 or 4 bits, which mlx-lm does not batch, have those of `mlx_quantized`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from llmctl.errors import Unsupported

Caches = list[Any]
"""One cache object for each layer."""

GROUPS = (64, 32)
"""How many numbers share one scale in quantized keys and values: the first that divides the heads' size."""


def fresh(model: Any, window: int | None = None, *, whole: bool = False) -> Caches:
    """Empty caches of one sequence.

    `window`: of a model whose layers all attend to that many tokens, which mlx-lm leaves out. `whole`: sliding layers
    keep everything, so that any number of tokens can be taken back; their masks keep to the window.
    """
    from mlx_lm.models import cache as library

    kinds: Any = library
    caches: Caches = kinds.make_prompt_cache(model)
    if window is not None:
        return [kinds.RotatingKVCache(max_size=window) for _ in caches]
    return [kinds.KVCache() if whole and hasattr(cache, "max_size") else cache for cache in caches]


def quantized(caches: Caches, sample: Caches, bits: int) -> Caches:
    """Empty `caches` with those that keep all tokens replaced by quantized ones; `sample` are used ones of the model.

    Unsupported when the heads' size is no multiple of a group. Layers that keep a window stay as they are.
    """
    from mlx_lm.models.cache import KVCache, QuantizedKVCache

    made: Caches = []
    for cache, used in zip(caches, sample, strict=True):
        if not isinstance(cache, KVCache):
            made.append(cache)
            continue
        sizes = (used.keys.shape[-1], used.values.shape[-1])
        group = next((group for group in GROUPS if not any(size % group for size in sizes)), None)
        if group is None:
            raise Unsupported(
                f"keys and values of {bits} bits need heads whose size is a multiple of {GROUPS[-1]}, here {sizes[0]}",
                hint="take cache_bits out of this model's entry",
            )
        made.append(QuantizedKVCache(group_size=group, bits=bits))
    return made


def used(model: Any, caches: Caches) -> Caches:
    """These empty caches after one token: they show what the model writes there."""
    import mlx.core as mx

    model(mx.array([[0]]), cache=caches)
    mx.eval([cache.state for cache in caches])
    return caches


def copies(caches: Caches) -> Caches:
    """Caches with the same content; memory is shared until one of both writes."""
    return copy.deepcopy(caches)


def joinable(caches: Caches) -> bool:
    """Whether sequences with such caches can be computed in one batch. mlx-vlm has a KVCache of its own."""
    kinds = ("KVCache", "QuantizedKVCache", "RotatingKVCache")
    return all(type(cache).__name__ in kinds and not getattr(cache, "keep", 0) for cache in caches)


def joined(parts: Sequence[Caches]) -> Caches:
    """The plain caches of several sequences as batched ones, in their order."""
    from llmctl.engines.mlx_quantized import BatchQuantizedKVCache

    def merge(layer: tuple[Any, ...]) -> Any:
        return (BatchQuantizedKVCache if hasattr(layer[0], "bits") else type(layer[0])).merge(list(layer))

    return [merge(layer) for layer in zip(*parts, strict=True)]


def extended(caches: Caches, more: Caches) -> Caches:
    """Batched caches with the rows of others behind them."""
    whole = [copy.copy(cache) for cache in caches]
    for cache, other in zip(whole, more, strict=True):
        cache.extend(other)
    return whole


def part(caches: Caches, rows: list[int]) -> Caches:
    """Batched caches of some rows; the ones given stay as they are."""
    import mlx.core as mx

    kept = [copy.copy(cache) for cache in caches]
    for cache in kept:
        cache.filter(mx.array(rows))
    return kept


def alone(caches: Caches, row: int) -> Caches:
    """One row of batched caches as plain ones, in memory of their own."""
    import mlx.core as mx

    taken = [cache.extract(row) for cache in caches]
    mx.eval([cache.state for cache in taken])
    return taken


def straighten(caches: Caches) -> None:
    """Bring windows that were written round and round into the order of time.

    mlx-lm's batched window makes the mask of several tokens before it does that itself, and with padding masks one of
    the tokens too many.
    """
    import mlx.core as mx

    for cache in caches:
        if getattr(cache, "rotated", False):
            keys, values, offset, padding, size, count, end, _ = cache.state
            keys, values = mx.roll(keys, -end, 2), mx.roll(values, -end, 2)
            cache.state = (keys, values, offset, padding, size, count, keys.shape[2], False)


def cut(caches: Caches, tokens: Sequence[int]) -> None:
    """Take the last tokens of each row back, as many as its number says.

    A window that is full lost its oldest tokens to these; it can give back no more than the last pass brought but one.
    """
    if len(tokens) == 1:
        for cache in caches:
            _cut_one(cache, tokens[0])
        return
    least = min(tokens)
    for cache in caches:
        common = 0 if hasattr(cache, "max_size") else cache.trim(least)
        rest = [count - common for count in tokens]
        if any(rest):
            cache.prepare(lengths=[-count for count in rest], right_padding=rest)
            cache.finalize()


def _cut_one(cache: Any, tokens: int) -> None:
    if cache.is_trimmable():
        cache.trim(tokens)
    else:
        keys, values, offset, keep, size, end = cache.state
        cache.state = (keys[..., : end - tokens, :], values[..., : end - tokens, :], offset - tokens, keep, size,
                       end - tokens)  # fmt: skip


def trimmable(caches: Caches) -> bool:
    """Whether any number of tokens can be taken back now."""
    return all(cache.is_trimmable() for cache in caches)


def arrays(caches: Caches) -> list[Any]:
    """The keys, values and states that caches hold."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    leaves: Any = tree_flatten([cache.state for cache in caches])
    return [leaf for _, leaf in leaves if isinstance(leaf, mx.array)]


def size(caches: Caches) -> int:
    """Bytes."""
    return sum(cache.nbytes for cache in caches if not cache.empty())


def token_bytes(caches: Caches) -> int:
    """Bytes of one token's keys and values, told from used plain caches; a window's count as all others."""
    return sum(array.nbytes // array.shape[2] for array in arrays(caches) if array.ndim == 4)


def finite(caches: Caches) -> bool:
    """Whether no number in them is NaN or infinite: what a sequence leaves behind must not spoil another."""
    import mlx.core as mx

    floats = [array for array in arrays(caches) if mx.issubdtype(array.dtype, mx.floating)]
    return bool(mx.all(mx.stack([mx.isfinite(array).all() for array in floats]))) if floats else True
