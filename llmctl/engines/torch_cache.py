"""The KV cache of the torch engine: one growing [rows, kv_heads, tokens, head_dim] pair of tensors per layer.

A sequence is a row. Rows in use are always the first ones and the sequences of one step are moved to the front of
them, so that attention reads views and a decode step copies nothing; a row moves only when sequences come or go.
What lies beyond a row's length is zero: a leftover NaN there would pass through a mask (0 × NaN) into other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LEAST_TOKENS = 256

Tensor = Any


class KVCache:
    """Keys and values of all sequences. Sequences are named by the engine's int handles.

    Each layer grows on its own, when it is next written: where memory runs out in the middle of a pass, the sequences
    of that pass are lost and the others go on with the capacity that they have.
    """

    def __init__(self) -> None:
        self._rows: list[int] = []  # the sequence in each row
        self._lengths: dict[int, int] = {}  # tokens of each sequence that has a row
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __contains__(self, seq: int) -> bool:
        return seq in self._lengths

    def length(self, seq: int) -> int:
        return self._lengths.get(seq, 0)

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self._tensors())

    def row(self, seq: int) -> int:
        return self._rows.index(seq)

    def add(self, seq: int) -> None:
        """Give a new sequence the next row."""
        self._rows.append(seq)
        self._lengths[seq] = 0

    def extend(self, seqs: Sequence[int], tokens: int) -> None:
        """Count `tokens` more in each of these sequences: the coming forward pass writes them."""
        for seq in seqs:
            self._lengths[seq] += tokens

    def layer(self, index: int, key: Tensor, value: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values with room for every row and `tokens` tokens, shaped and typed as the new ones."""
        old = self._layers.get(index, (None, None))
        pair = self._fitting(old[0], key, tokens), self._fitting(old[1], value, tokens)
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

    def copy(self, seq: int, new: int) -> None:
        """A new row with the content of another."""
        self.add(new)
        length = self._lengths[new] = self._lengths[seq]
        try:
            for index, pair in self._layers.items():
                for tensor in self.layer(index, *pair, length):
                    tensor[self.row(new), :, :length] = tensor[self.row(seq), :, :length]
        except Exception:  # out of memory: nobody will free a row that was never handed out
            self.remove(new)
            raise

    def remove(self, seq: int) -> None:
        """End a sequence: the last row takes its place, and what it held is cleared. All memory goes with the last."""
        row, length = self.row(seq), self._lengths.pop(seq)
        mover, last, kept = self._rows.pop(), len(self._rows), 0
        if not self._rows:
            self._layers = {}
            return
        if row != last:
            self._rows[row], kept = mover, self._lengths[mover]
        for tensor in self._tensors():
            if row != last and last < len(tensor):
                tensor[row, :, :kept] = tensor[last, :, :kept]
                tensor[last, :, :kept] = 0
            if row < len(tensor):
                tensor[row, :, kept:length] = 0

    def _fitting(self, old: Tensor | None, like: Tensor, tokens: int) -> Tensor:
        rows_now, tokens_now = (0, 0) if old is None else (old.shape[0], old.shape[2])
        if rows_now >= len(self._rows) and tokens_now >= tokens:
            return old
        shape = (_doubled(rows_now, len(self._rows), 1), like.shape[1], _doubled(tokens_now, tokens, LEAST_TOKENS))
        new = like.new_zeros((*shape, like.shape[3]))
        if old is not None:
            new[:rows_now, :, :tokens_now] = old
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


def _doubled(size: int, needed: int, least: int) -> int:
    while size < needed:
        size = max(2 * size, least)
    return size
