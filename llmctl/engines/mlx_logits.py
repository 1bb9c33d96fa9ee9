"""The logits of a step on MLX."""

from __future__ import annotations

from typing import Any


class MlxLogits:
    """Rows of logits: [rows, vocabulary], from arrays that were evaluated or will be when they are asked for."""

    def __init__(self, rows: list[Any]) -> None:
        import mlx.core as mx

        self._values = rows[0] if len(rows) == 1 else mx.concatenate(rows)

    def argmax(self) -> tuple[list[int], list[bool]]:
        import mlx.core as mx

        best, finite = mx.argmax(self._values, axis=-1), mx.isfinite(mx.max(self._values, axis=-1))
        mx.eval(best, finite)
        ids: Any = best.tolist()
        flags: Any = finite.tolist()
        return ids, flags

    def row(self, i: int) -> Any:
        import mlx.core as mx
        import numpy

        return numpy.array(self._values[i].astype(mx.float32))
