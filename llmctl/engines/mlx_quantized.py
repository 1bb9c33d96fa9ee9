"""Keys and values of 8 or 4 bits for several sequences at once.

mlx-lm has quantized caches for one sequence only, and its server then answers requests one after another. This one has
the interface of its batched caches: rows are right-aligned, the shorter ones begin with padding that the mask hides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

STEP = 256
"""Room is made for this many tokens at a time."""

Parts = tuple[Any, ...]
"""A quantized tensor: packed numbers, scales and biases, each [rows, heads, tokens, …]."""


class BatchQuantizedKVCache:
    """`bits` and `group_size` are what mlx-lm's attention looks for in a quantized cache."""

    def __init__(self, left_padding: Sequence[int], group_size: int, bits: int) -> None:
        import mlx.core as mx

        self.group_size, self.bits = group_size, bits
        self.keys: Parts | None = None
        self.values: Parts | None = None
        self.left_padding: Any = mx.array(list(left_padding))
        self.offset: Any = -self.left_padding
        self._end = 0
        self._right_padding: Any = None

    @classmethod
    def merge(cls, caches: Sequence[Any]) -> BatchQuantizedKVCache:
        """Of one-sequence caches, mlx-lm's."""
        import mlx.core as mx

        longest = max(cache.offset for cache in caches)
        merged = cls([longest - cache.offset for cache in caches], caches[0].group_size, caches[0].bits)
        merged._end, merged.offset = longest, mx.array([cache.offset for cache in caches])
        filled = next((cache for cache in caches if cache.keys is not None), None)
        if filled is None or longest == 0:
            return merged

        def rows(of: Callable[[Any], Parts | None], like: Parts) -> Parts:
            made = []
            for index, sample in enumerate(like):
                padded = []
                for cache in caches:
                    parts = of(cache)
                    held = sample[..., :0, :] if parts is None else parts[index][..., : cache.offset, :]
                    padded.append(_padded(held, longest - cache.offset, 0))
                made.append(mx.concatenate(padded))
            return tuple(made)

        merged.keys = rows(lambda cache: cache.keys, filled.keys)
        merged.values = rows(lambda cache: cache.values, filled.values)
        return merged

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Parts, Parts]:
        """Append tokens to all rows: [rows, heads, tokens, size]; all that is held, quantized."""
        import mlx.core as mx

        start, self._end = self._end, self._end + keys.shape[2]
        self.offset = self.offset + keys.shape[2]
        self.keys = self._written(self.keys, mx.quantize(keys, group_size=self.group_size, bits=self.bits), start)
        self.values = self._written(self.values, mx.quantize(values, group_size=self.group_size, bits=self.bits), start)
        return self._held(self.keys), self._held(self.values)

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        from mlx_lm.models.base import create_causal_mask

        return create_causal_mask(N, offset=self._end, window_size=window_size, left_padding=self.left_padding)

    def prepare(self, *, lengths: Sequence[int], right_padding: Sequence[int]) -> None:
        """What follows ends with padding, this much of it in each row."""
        import mlx.core as mx

        self._right_padding = mx.array(list(right_padding))

    def finalize(self) -> None:
        """Take the padding at the end away: each row moves to the right by it."""
        if self._right_padding is None:
            return
        if self.keys is not None and self.values is not None:
            self.keys = self._rolled(self.keys)
            self.values = self._rolled(self.values)
        self.offset = self.offset - self._right_padding
        self.left_padding = self.left_padding + self._right_padding
        self._right_padding = None

    def trim(self, n: int) -> int:
        self._end -= n
        self.offset = self.offset - n
        return n

    def filter(self, rows: Any) -> None:
        """Keep these rows only, and no more padding than they need."""
        self.offset, self.left_padding = self.offset[rows], self.left_padding[rows]
        spare = int(self.left_padding.min())
        self._end -= spare
        self.left_padding = self.left_padding - spare
        if self.keys is not None and self.values is not None:
            self.keys = tuple(array[rows][..., spare:, :] for array in self.keys)
            self.values = tuple(array[rows][..., spare:, :] for array in self.values)

    def extend(self, other: BatchQuantizedKVCache) -> None:
        """Take the rows of another in behind the own ones."""
        import mlx.core as mx

        end = max(self._end, other._end)
        own, its = end - self._end, end - other._end
        rows = (len(self.left_padding), len(other.left_padding))
        self.keys = _stacked(self._held(self.keys), own, other._held(other.keys), its, rows)
        self.values = _stacked(self._held(self.values), own, other._held(other.values), its, rows)
        self.left_padding = mx.concatenate([self.left_padding + own, other.left_padding + its])
        self.offset = mx.concatenate([self.offset, other.offset])
        self._end = end

    def extract(self, row: int) -> Any:
        """One row as mlx-lm's cache of one sequence."""
        import mlx.core as mx
        from mlx_lm.models.cache import QuantizedKVCache

        start = int(self.left_padding[row])
        cache: Any = QuantizedKVCache(group_size=self.group_size, bits=self.bits)
        cache.offset = self._end - start
        if cache.offset and self.keys is not None and self.values is not None:
            cache.keys = [mx.contiguous(array[row : row + 1, :, start : self._end]) for array in self.keys]
            cache.values = [mx.contiguous(array[row : row + 1, :, start : self._end]) for array in self.values]
        return cache

    def is_trimmable(self) -> bool:
        return True

    def empty(self) -> bool:
        return self.keys is None

    @property
    def nbytes(self) -> int:
        return sum(int(array.nbytes) for array in (*(self.keys or ()), *(self.values or ())))

    @property
    def state(self) -> tuple[Any, ...]:
        return self.keys, self.values, self.offset, self.left_padding

    def _written(self, held: Parts | None, new: Parts, start: int) -> Parts:
        made = []
        for index, array in enumerate(new):
            room = None if held is None else held[index]
            if room is None or self._end > room.shape[2]:
                old = array[..., :0, :] if room is None else room[..., :start, :]
                room = _padded(old, 0, -(-array.shape[2] // STEP) * STEP)
            room[..., start : self._end, :] = array
            made.append(room)
        return tuple(made)

    def _held(self, parts: Parts | None) -> Any:
        return None if parts is None else tuple(array[..., : self._end, :] for array in parts)

    def _rolled(self, parts: Parts) -> Parts:
        import mlx.core as mx

        held = self._held(parts)
        places = (mx.arange(self._end)[None] - self._right_padding[:, None]) % self._end
        return tuple(mx.take_along_axis(array, places[:, None, :, None], axis=2) for array in held)


def _padded(array: Any, left: int, right: int) -> Any:
    import mlx.core as mx

    return mx.pad(array, [(0, 0), (0, 0), (left, right), (0, 0)]) if left or right else array


def _stacked(own: Parts | None, left: int, its: Parts | None, its_left: int, rows: tuple[int, int]) -> Parts | None:
    """The rows of both, with padding before each; `rows` are how many there are where nothing is held yet."""
    import mlx.core as mx

    def held(parts: Parts | None, like: Parts, count: int) -> Parts:
        return parts or tuple(mx.zeros((count, array.shape[1], 0, array.shape[3]), array.dtype) for array in like)

    like = own or its
    if like is None:
        return None
    pairs = zip(held(own, like, rows[0]), held(its, like, rows[1]), strict=True)
    return tuple(mx.concatenate([_padded(a, left, 0), _padded(b, its_left, 0)]) for a, b in pairs)
