"""AdamW with a rate that rises and falls."""

from __future__ import annotations

import math
from typing import Any

WARMUP, LAST = 20, 0.05
"""Steps of the rise, and the part of the rate that is left at the end."""


class Descent:
    """Moves `parameters` along their gradients, `steps` times at most."""

    def __init__(self, parameters: Any, rate: float, steps: int) -> None:
        import torch

        self._parameters = list(dict.fromkeys(parameters))  # tied weights come twice
        self._rate, self._steps, self._done = rate, steps, 0
        self._optimizer = torch.optim.AdamW(self._parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.01)

    def step(self) -> None:
        """One step; the gradients are zero after it."""
        import torch

        self._done += 1
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * self._share()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _share(self) -> float:
        """A linear warm-up, then half a cosine down."""
        if self._done < WARMUP:
            return self._done / WARMUP
        part = (self._done - WARMUP) / (self._steps - WARMUP)
        return LAST + (1 - LAST) * (1 + math.cos(math.pi * part)) / 2
