"""The KV cache of the torch engine: one growing [rows, kv_heads, tokens, head_dim] pair of tensors per layer.

A sequence is a row. Rows in use are always the first ones and the sequences of one step are moved to the front of
them, so that attention reads views and a decode step copies nothing; a row moves only when sequences come or go.
What lies beyond a row's length is zero: a leftover NaN there would pass through a mask (0 × NaN) into other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmctl.errors import LlmctlError

LEAST_TOKENS = 256
STEP = 64
"""Tokens by which rows grow where doubling them would go over the limit."""

Tensor = Any


class OutOfRoom(LlmctlError):
    """There is no memory for these keys and values."""

    code = "out_of_memory"


class KVCache:
    """Keys and values of all sequences, at most `most` bytes. Sequences are named by the engine's int handles.

    `drop` is asked to `remove` a sequence that nobody needs where room is wanted; False when there is none. Each layer
    grows on its own, when it is next written, so that old and new tensors of one layer only exist at a time.
    """

    def __init__(self, most: int | None = None, drop: Callable[[], bool] = lambda: False) -> None:
        self.most = most
        self._drop = drop
        self._rows: list[int] = []  # the sequence in each row
        self._lengths: dict[int, int] = {}  # tokens of each sequence that has a row
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._shape = (0, 0)  # rows and tokens that a layer gets when it is next written and too small
        self._widths: dict[int, int] = {}  # bytes of a token in each layer that was ever written

    def __contains__(self, seq: int) -> bool:
        return seq in self._lengths

    def length(self, seq: int) -> int:
        return self._lengths.get(seq, 0)

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self._tensors())

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all layers; 0 before the first pass."""
        return sum(self._widths.values())

    def row(self, seq: int) -> int:
        return self._rows.index(seq)

    def extend(self, counts: Mapping[int, int]) -> None:
        """Count so many tokens more in each of these sequences, new ones included: the coming pass writes them.

        OutOfRoom, with nothing changed, when the limit leaves no room for all of them.
        """
        while self._fit(self._after(counts)) is None:
            if not self._drop():
                raise OutOfRoom(
                    f"keys and values of {len(self._after(counts))} sequences, one of them of "
                    f"{max(self._after(counts).values())} tokens, do not fit into {self.most} bytes",
                    hint="raise the limit of the cache, or lower the context or the parallel requests",
                )
        self._take(self._after(counts))

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values with room for every row and token, shaped and typed as the new ones."""
        old = self._layers.get(index, (None, None))
        pair = self._fitting(old[0], key), self._fitting(old[1], value)
        if index not in self._widths:
            self._widths[index] = sum(t.shape[1] * t.shape[3] * t.element_size() for t in pair)
        self._layers[index] = pair
        return pair

    def arrange(self, seqs: Sequence[int]) -> list[int]:
        """Move these sequences to the first rows; their order there."""
        wanted = set(seqs)
        strangers = [row for row, seq in enumerate(self._rows[: len(wanted)]) if seq not in wanted]
        for row in range(len(wanted), len(self._rows)):
            if self._rows[row] in wanted:
                self._swap(strangers.pop(), row)
        return self._rows[: len(wanted)]

    def copy(self, seq: int, new: int, length: int) -> None:
        """A new row with the first `length` tokens of another."""
        self.extend({new: length})
        try:
            for index, pair in self._layers.items():
                for tensor in self.layer(index, *pair):
                    tensor[self.row(new), :, :length] = tensor[self.row(seq), :, :length]
        except Exception:  # out of memory: nobody will free a row that was never handed out
            self.undo({new: length})
            raise

    def rename(self, seq: int, new: int) -> None:
        """Let another sequence have this one's row."""
        self._rows[self.row(seq)] = new
        self._lengths[new] = self._lengths.pop(seq)

    def cut(self, seq: int, length: int) -> None:
        """Forget all tokens of a sequence but its first `length`."""
        row, end = self.row(seq), self._lengths[seq]
        for tensor in self._tensors():
            if row < len(tensor):
                tensor[row, :, length:end] = 0
        self._lengths[seq] = length

    @property
    def room(self) -> int:
        """Positions that every layer has room for."""
        return min((tensor.shape[2] for tensor in self._tensors()), default=0)

    def settle(self) -> tuple[int, ...]:
        """Let every layer grow now that would with the next pass; where its tensors lie from then on."""
        for index, pair in list(self._layers.items()):
            self.layer(index, *pair)
        return tuple(tensor.data_ptr() for tensor in self._tensors())

    def undo(self, counts: Mapping[int, int]) -> None:
        """Take an `extend` back whose pass failed, wherever it got to."""
        for seq, count in counts.items():
            if self._lengths[seq] == count:
                self.remove(seq)
            else:
                self.cut(seq, self._lengths[seq] - count)
        tensors = self._tensors()
        self._shape = min((len(t) for t in tensors), default=0), min((t.shape[2] for t in tensors), default=0)

    def finite(self, seq: int, length: int) -> bool:
        """Whether the first `length` tokens of a sequence are numbers, in every layer."""
        row = self.row(seq)
        return all(bool(tensor[row, :, :length].isfinite().all()) for tensor in self._tensors())

    def remove(self, seq: int) -> None:
        """End a sequence: the last row takes its place, and what it held is cleared. All memory goes with the last."""
        row, length = self.row(seq), self._lengths.pop(seq)
        mover, last, kept = self._rows.pop(), len(self._rows), 0
        if not self._rows:
            self._layers, self._shape = {}, (0, 0)
            return
        if row != last:
            self._rows[row], kept = mover, self._lengths[mover]
        for tensor in self._tensors():
            if row != last and last < len(tensor):
                tensor[row, :, :kept] = tensor[last, :, :kept]
                tensor[last, :, :kept] = 0
            if row < len(tensor):
                tensor[row, :, kept:length] = 0

    def _after(self, counts: Mapping[int, int]) -> dict[int, int]:
        """The length of every sequence with so many tokens more in some."""
        return self._lengths | {seq: self.length(seq) + count for seq, count in counts.items()}

    def _fit(self, lengths: Mapping[int, int]) -> tuple[int, int] | None:
        """The shape for sequences of these lengths; None when the limit leaves no room for them."""
        most = None if self.most is None or not self._widths else self.most // self.token_bytes
        return fitting(self._shape, lengths.values(), most)

    def _take(self, lengths: dict[int, int]) -> None:
        shape = self._fit(lengths)
        assert shape is not None
        self._shape = shape
        self._rows += [seq for seq in lengths if seq not in self._lengths]
        self._lengths = lengths

    def _fitting(self, old: Tensor | None, like: Tensor) -> Tensor:
        if old is not None and len(old) >= len(self._rows) and old.shape[2] >= max(self._lengths.values()):
            return old
        rows, tokens = self._shape
        new = like.new_zeros((rows, like.shape[1], tokens, like.shape[3]))
        if old is not None:
            new[: len(old), :, : old.shape[2]] = old[:rows, :, :tokens]
        return new

    def _swap(self, a: int, b: int) -> None:
        length = max(self._lengths[self._rows[a]], self._lengths[self._rows[b]])
        for tensor in self._tensors():
            spare = tensor[a, :, :length].clone()
            tensor[a, :, :length] = tensor[b, :, :length]
            tensor[b, :, :length] = spare
        self._rows[a], self._rows[b] = self._rows[b], self._rows[a]

    def _tensors(self) -> list[Tensor]:
        return [tensor for pair in self._layers.values() for tensor in pair]


def fitting(now: tuple[int, int], lengths: Iterable[int], most: int | None) -> tuple[int, int] | None:
    """Rows and tokens of a cache, now of shape `now`, for sequences of these lengths; `most` tokens in all rows.

    What there is grows by doubling, so that it seldom does; at the limit by what is needed, if it must be by giving up
    rows or tokens that are not in use. None when not even that fits.
    """
    sizes = list(lengths)
    rows, tokens = len(sizes), max(sizes, default=0)
    shape = doubled(now[0], rows, 1), doubled(now[1], tokens, LEAST_TOKENS)
    if most is None:
        return shape
    rounded = -(-tokens // STEP) * STEP
    shapes = [shape, (rows, shape[1]), (shape[0], rounded), (rows, rounded), (rows, tokens)]
    return next((one for one in shapes if one[0] * one[1] <= most), None)


def doubled(size: int, needed: int, least: int) -> int:
    """`size`, or `least`, doubled until it is at least `needed`."""
    while size < needed:
        size = max(2 * size, least)
    return size
