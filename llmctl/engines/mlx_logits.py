"""The logits of a step on MLX."""

from __future__ import annotations

from typing import Any


class MlxLogits:
    """Logits of a step, one lazy row per sequence; evaluated together."""

    def __init__(self, rows: list[Any]) -> None:
        import mlx.core as mx

        self._values = mx.concatenate(rows)
        mx.eval(self._values)

    def argmax(self) -> tuple[list[int], list[bool]]:
        import mlx.core as mx

        best: Any = mx.argmax(self._values, axis=-1).tolist()
        finite: Any = mx.isfinite(mx.max(self._values, axis=-1)).tolist()
        return best, finite

    def row(self, i: int) -> Any:
        import mlx.core as mx
        import numpy

        return numpy.array(self._values[i].astype(mx.float32))
