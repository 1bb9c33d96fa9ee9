"""What the embedding engines share: how large an answer may be, and what is done with a model's last numbers."""

from __future__ import annotations

import math
from typing import Any

from llmctl.decoding.sampling import nonfinite
from llmctl.errors import RequestError

FLOATS = 10_000_000
"""Numbers of one answer: it travels in a frame of at most 256 MB."""


def sized(rows: int, width: int) -> None:
    """RequestError for more numbers than an answer can have."""
    if rows * width > FLOATS:
        raise RequestError(f"{rows} vectors of {width} numbers are too many for one answer", param="input")


def unit(vector: Any) -> Any:
    """A numpy vector made one long; one of zeros stays."""
    import numpy as np

    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def sigmoid(logit: float) -> float:
    """Between 0 and 1, also where the exponential would not fit a float."""
    if not math.isfinite(logit):
        raise nonfinite()
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
