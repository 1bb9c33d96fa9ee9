"""Decode steps on CUDA, recorded once and replayed: a step of a small model is mostly the launching of its kernels.

A recorded step has fixed addresses and shapes: it attends over a span of positions in steps of SPAN, masked by how
long each row is at the time. Never run on a GPU by this project; without the recording it is tested on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.engines.torch_attention import Pass
from llmctl.engines.torch_cache import KVCache

SPAN = 512
WORTH = 8
"""Steps of one shape that are computed plainly before one is recorded."""
MOST = 64
"""Recorded shapes; each holds its own activations."""

Tensor = Any
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Makes of a computation what repeats it, and where its result will lie."""


@dataclass
class FixedPass(Pass):
    """One new token for each of the first rows, whose lengths stand in a tensor, over `span` positions."""

    lengths: Tensor = None
    span: int = 0

    def start(self, window: int | None) -> int:
        return 0

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        stored, rows = self.cache.layer(layer, key, value), len(self.lengths)
        every = torch.arange(rows, device=key.device)
        for tensor, fresh in zip(stored, (key, value), strict=True):
            tensor[every, :, self.lengths] = fresh[:, :, 0]
        return stored[0][:rows, :, : self.span], stored[1][:rows, :, : self.span]

    def _mask(self, window: int | None, like: Tensor) -> Tensor:
        import torch

        keys, ends = torch.arange(self.span, device=like.device), self.lengths[:, None]
        seen = keys <= ends
        if window:
            seen &= keys > ends - window
        hidden = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))
        return hidden[:, None, None]


@dataclass
class Step:
    """A recorded step: its inputs, what repeats it, and where its logits lie."""

    tokens: Tensor
    lengths: Tensor
    repeat: Callable[[], None]
    logits: Tensor


def recorded(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A CUDA graph of `compute`, which has run often enough for libraries to have chosen their kernels."""
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = compute()
    return graph.replay, logits


class Graphs:
    """The recorded steps of one model over one cache."""

    def __init__(self, model: Any, cache: KVCache, record: Record = recorded) -> None:
        self._model, self._cache, self._record = model, cache, record
        self._steps: dict[tuple[int, int], Step] = {}
        self._seen: dict[tuple[int, int], int] = {}
        self._where: tuple[int, ...] = ()
        self._able = True

    def step(self, tokens: Sequence[int], past: Sequence[int]) -> Tensor | None:
        """The logits, [rows, vocab], of one more token in each of the first rows; None: compute it plainly."""
        import torch

        where, span = self._cache.settle(), -(-(max(past) + 1) // SPAN) * SPAN
        if where != self._where:  # tensors have moved
            self._steps.clear()
            self._where = where
        shape = len(tokens), min(span, self._cache.room)
        self._seen[shape] = self._seen.get(shape, 0) + 1
        if not self._able or self._seen[shape] < WORTH:
            return None
        if shape not in self._steps:
            try:
                self._steps[shape] = self._recorded(*shape, tokens, past)
            except RuntimeError:  # the model asks the device for numbers: it cannot be recorded
                self._able = False
                self._steps.clear()
                return None
            if len(self._steps) > MOST:
                del self._steps[next(iter(self._steps))]
        step = self._steps[shape]
        step.tokens.copy_(torch.tensor(tokens)[:, None])
        step.lengths.copy_(torch.tensor(past))
        step.repeat()
        return step.logits.clone()

    def _recorded(self, rows: int, span: int, tokens: Sequence[int], past: Sequence[int]) -> Step:
        import torch

        device = self._model.device
        ids = torch.tensor(tokens, device=device)[:, None]
        lengths = torch.tensor(past, device=device)

        def compute() -> Tensor:
            return self._model(
                input_ids=ids,
                position_ids=lengths[:, None],
                use_cache=False,
                logits_to_keep=1,
                forward=FixedPass(self._cache, 0, past, 1, lengths=lengths, span=span),
            ).logits[:, 0]

        if device.type == "cuda":
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                compute()
            torch.cuda.current_stream().wait_stream(stream)
        return Step(ids, lengths, *self._record(compute))
