"""What the quality gate found, and whether it is good enough."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmctl.catalog import QualityLimit
from llmctl.errors import UsageError


@dataclass(frozen=True)
class Metrics:
    """`mean_kl`, `p99_kl` and `max_kl` in nats per token, `top1` the share of positions with the same likeliest token.

    All are None when no position could be compared. `tokens` positions count: those of the `known_windows` windows
    whose text the source knows, or of all where it knows none; `*_nonfinite` had logits that are not finite.
    """

    tokens: int
    mean_kl: float | None = None
    p99_kl: float | None = None
    max_kl: float | None = None
    top1: float | None = None
    source_perplexity: float | None = None
    target_perplexity: float | None = None
    known_windows: int = 0
    source_nonfinite: int = 0
    target_nonfinite: int = 0


@dataclass(frozen=True)
class Side:
    """One of the two models as it was measured; `dtype` is what its engine calls its weights."""

    engine: str
    format: str
    dtype: str
    vocab: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """The verdict (`why` is empty when it passed), the figures, the limit, and what was measured.

    `text` names the token set: the beginning of the sha256 of its ids. `seconds` is the whole of the check.
    """

    passed: bool
    why: str
    metrics: Metrics
    limit: QualityLimit
    text: str
    windows: int
    source: Side | None
    target: Side | None
    seconds: float


def verdict(metrics: Metrics, limit: QualityLimit) -> str:
    """Why these figures fail the limit; empty when they pass.

    A source that knows none of the text (random weights) has no likeliest token worth the name: only KL counts.
    """
    for side, count in (("source", metrics.source_nonfinite), ("target", metrics.target_nonfinite)):
        if count:
            return f"the logits of the {side} are not finite at {count} positions"
    if metrics.mean_kl is None or metrics.top1 is None:
        return "no position was compared"
    found = []
    if not metrics.mean_kl <= limit.max_kl:
        found.append(f"the mean KL divergence of {metrics.mean_kl:.4g} nats is over {limit.max_kl:.4g}")
    if metrics.known_windows and not metrics.top1 >= limit.min_top1:
        found.append(f"the top-1 agreement of {metrics.top1:.2%} is under {limit.min_top1:.2%}")
    return "; ".join(found)


def bits_of(quantization: str) -> int:
    """The bits per weight that a quantization is judged by: the first number of its name, at most 16.

    q4_k_m, 4bit, mxfp4 and int4 are 4; bf16, f16 and f32 are 16. Mixed recipes (mixed-3-6: most weights in 3 bits, some
    in 6) are judged by their lower number, which is what most weights have. 8-bit floats (mxfp8, fp8) have four
    significant bits, lose about what 6-bit integers lose, and are judged as those.
    """
    number = re.search(r"\d+", quantization)
    if number is None or not 1 <= int(number[0]) <= 64:
        raise UsageError(
            f"{quantization[:40]!r} does not say how many bits a weight has",
            hint="llmctl convert --help names them all",
        )
    bits = min(int(number[0]), 16)
    return 6 if bits == 8 and "fp8" in quantization.lower() else bits
