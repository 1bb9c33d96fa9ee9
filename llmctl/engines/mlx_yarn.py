"""YaRN's rotary positions (2309.00071) with a ramp between exact dimensions, as gpt-oss was trained.

mlx-lm rounds both ends of the ramp to whole dimensions, whatever a checkpoint's `truncate` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def exact_rope(dims: int, base: float, scaling: Mapping[str, Any]) -> Any:
    """A module that turns queries or keys [rows, heads, tokens, dims] by their positions from `offset` on."""
    import mlx.core as mx
    from mlx import nn

    context, factor = scaling["original_max_position_embeddings"], scaling["factor"]

    def dimension(turns: float) -> float:
        """Which dimension turns so often within the context that the model was first trained on."""
        return dims * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(dimension(scaling.get("beta_fast") or 32), 0)
    high = min(dimension(scaling.get("beta_slow") or 1), dims - 1)
    stretched = mx.clip((mx.arange(dims // 2) - low) / max(high - low, 0.001), 0, 1)
    waves = base ** (mx.arange(0, dims, 2) / dims)
    waves = 1 / (stretched / (factor * waves) + (1 - stretched) / waves)
    larger = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1

    class Rope(nn.Module):  # type: ignore[misc,name-defined]
        def __call__(self, x: Any, offset: Any = 0) -> Any:
            return mx.fast.rope(x * larger, dims, traditional=False, base=None, scale=1, offset=offset, freqs=waves)

    return Rope()
