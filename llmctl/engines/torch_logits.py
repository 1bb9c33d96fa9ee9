"""The logits of a step, on the device until they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TorchLogits:
    """Logits of a step, [rows, vocab] on the device; `order` says which row is the caller's i-th."""

    def __init__(self, values: Any, order: Sequence[int] = (0,)) -> None:
        self._values = values
        self._order = order

    def argmax(self) -> tuple[list[int], list[bool]]:
        import torch

        most, ids = self._values.max(dim=-1)  # of equal maxima the first, as numpy's argmax
        found, finite = ids.tolist(), torch.isfinite(most).tolist()
        return [found[i] for i in self._order], [finite[i] for i in self._order]

    def all(self) -> Any:
        """All rows: float32, [rows, vocab]."""
        return self._values[list(self._order)].float().cpu().numpy()

    def row(self, i: int) -> Any:
        return self._values[self._order[i]].float().cpu().numpy()
