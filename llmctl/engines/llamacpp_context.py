"""One context of llama.cpp: slots of keys and values, batches of their tokens, logits.

llama.cpp computes together only what lies in slots with consecutive numbers, in this order, so many tokens of each as
the shortest has; it reads all weights again for everything else. So a batch is made in the order of the slots, and a
narrow gap between two that run is filled with a token that is thrown away.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmctl.engines.llamacpp_library import Library
from llmctl.errors import LlmctlError

MOST = 2048  # tokens of one call; llama.cpp cuts it into pieces of BATCH
FILLED = 3  # slots: a wider gap costs as much to fill as another pass over the weights
OUT_OF_MEMORY = -2
OF_A_PICTURE = -1
"""Stands for a token of a picture: no prompt has it, so that what a slot holds is reused up to its first picture."""


class DecodeFailed(LlmctlError):
    """llama.cpp could not compute a batch."""

    code = "engine_failed"


class OutOfMemory(LlmctlError):
    """There is no memory for what was to be computed, or loaded."""

    code = "out_of_memory"


@dataclass
class Slot:
    """A sequence of the context: the tokens whose keys and values it holds, with which adapter, and since when it is
    free.

    `shift` is by how much the next token's position differs from their number: a picture may have fewer positions than
    tokens.
    """

    id: int
    tokens: list[int] = field(default_factory=list)
    adapter: str | None = None
    shift: int = 0
    taken: bool = False
    freed: int = 0

    @property
    def position(self) -> int:
        return len(self.tokens) + self.shift

    def common(self, tokens: Sequence[int], adapter: str | None) -> int:
        """How many tokens both begin with; none where the adapter differs."""
        if self.adapter != adapter:
            return 0
        if self.tokens == tokens[: len(self.tokens)]:
            return len(self.tokens)
        return next((i for i, (a, b) in enumerate(zip(self.tokens, tokens, strict=False)) if a != b), len(tokens))


@dataclass(frozen=True)
class Work:
    """Tokens to append to a slot; with `every` the logits behind each of them are wanted, else behind the last."""

    slot: Slot
    tokens: Sequence[int]
    every: bool = False

    @property
    def rows(self) -> int:
        return len(self.tokens) if self.every else 1


class Context:
    """The slots of one llama.cpp context, which `close` frees. `cuts`: a slot can be cut anywhere."""

    def __init__(self, library: Library, context: int, slots: int, vocab: int, *, cuts: bool) -> None:
        self.slots = [Slot(i) for i in range(slots)]
        self.cuts = cuts
        self.pointer = context
        self._lib, self._vocab = library, vocab
        self._memory = library.get_memory(context)
        self._room: int = library.n_ctx_seq(context)
        self._batch = library.batch_init(MOST + slots, 0, 1)

    def close(self) -> None:
        self._lib.batch_free(self._batch)
        self._lib.free(self.pointer)

    def use(self, adapter: int | None) -> None:
        """Compute with this adapter, or without one, from now on."""
        count = int(adapter is not None)
        code = self._lib.set_adapters_lora(
            self.pointer, (ctypes.c_void_p * 1)(adapter), count, (ctypes.c_float * 1)(1.0)
        )
        if code:
            raise DecodeFailed(f"llama.cpp could not change the adapter (code {code})")

    # ── what slots hold ─────────────────────────────────────────────────────────────────────────────────────────────

    def cut(self, slot: Slot, length: int) -> None:
        """Keep the first `length` tokens; none where that cannot be done, as a recurrent state cannot be cut.

        Either all pictures stay, or none.
        """
        if length == len(slot.tokens) > 0:
            return
        if OF_A_PICTURE in slot.tokens[length:]:
            slot.shift = 0
        if not length or not self._lib.memory_seq_rm(self._memory, slot.id, length + slot.shift, -1):
            self._lib.memory_seq_rm(self._memory, slot.id, -1, -1)
            length = slot.shift = 0
        del slot.tokens[length:]

    def copy(self, source: Slot, target: Slot) -> None:
        """Have `target` hold what `source` holds."""
        self.cut(target, 0)
        self._lib.memory_seq_cp(self._memory, source.id, target.id, -1, -1)
        target.tokens, target.shift, target.adapter = list(source.tokens), source.shift, source.adapter

    # ── batches ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def decode(self, work: Sequence[Work]) -> Any:
        """Append at most MOST tokens to slots; the rows of logits in the order of `work`, valid until the next call.

        After an error each slot holds what it held, or nothing.
        """
        held = [(each.slot, len(each.slot.tokens)) for each in work]
        order = sorted(range(len(work)), key=lambda i: work[i].slot.id)
        extra = self._fill([work[i] for i in order])
        code = self._lib.decode(self.pointer, self._batch)
        for slot in extra:
            self._lib.memory_seq_rm(self._memory, slot.id, slot.position, -1)
        if code != 0:
            for slot, length in held:
                if not length or not self._lib.memory_seq_rm(self._memory, slot.id, length + slot.shift, -1):
                    self.cut(slot, 0)
            raise failure(code, self._batch.n_tokens)
        for each in work:
            each.slot.tokens += each.tokens
        return self._rows([work[i].rows for i in order], order)

    def _fill(self, work: Sequence[Work]) -> list[Slot]:
        """Write the batch, in the order of slots; those that got a token which is to be thrown away."""
        extra: list[Slot] = []
        self._batch.n_tokens = 0
        for before, each in zip([None, *work], work, strict=False):
            gap = self.slots[before.slot.id + 1 : each.slot.id] if before else []
            if self.cuts and len(gap) <= FILLED and all(slot.position < self._room for slot in gap):
                for slot in gap:
                    self._append(slot, 0, slot.position, wanted=False)
                extra += gap
            for offset, token in enumerate(each.tokens):
                last = offset == len(each.tokens) - 1
                self._append(each.slot, token, each.slot.position + offset, wanted=each.every or last)
        return extra

    def _append(self, slot: Slot, token: int, position: int, *, wanted: bool) -> None:
        batch, n = self._batch, self._batch.n_tokens
        batch.token[n], batch.pos[n] = token, position
        batch.n_seq_id[n], batch.seq_id[n][0] = 1, slot.id
        batch.logits[n] = wanted
        batch.n_tokens = n + 1

    def _rows(self, counts: Sequence[int], order: Sequence[int]) -> Any:
        """llama.cpp's rows, which are those of slots in their order, as those of the work in its order."""
        import numpy as np

        rows = np.ctypeslib.as_array(self._lib.get_logits(self.pointer), (sum(counts), self._vocab))
        if list(order) == sorted(order):
            return rows
        starts = np.cumsum([0, *counts])
        places: dict[int, range] = {i: range(starts[n], starts[n + 1]) for n, i in enumerate(order)}
        return rows[[row for i in sorted(places) for row in places[i]]]


def failure(code: int, tokens: int) -> LlmctlError:
    """What llama_decode's code means."""
    if code == OUT_OF_MEMORY:
        return OutOfMemory(f"out of memory: llama.cpp could not compute a batch of {tokens} tokens")
    return DecodeFailed(f"llama.cpp could not compute a batch of {tokens} tokens (llama_decode gave {code})")
