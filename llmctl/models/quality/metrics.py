"""How far one next-token distribution is from another, position by position, in float64.

The Kullback-Leibler divergence (Kullback and Leibler, "On Information and Sufficiency", 1951) of the target Q from the
source P is sum P(x) (ln P(x) - ln Q(x)), in nats. llama.cpp's perplexity tool reports the same quantities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmctl.models.quality.report import Metrics

Rows = Any  # a numpy array of shape [positions, vocab]
Numbers = Any  # a numpy array of shape [positions]
BLOCK = 2**22  # numbers in memory at once; as float64 32 MiB in each of a handful of arrays
KNOWN = 0.25
"""The share of a window's tokens that the source must predict; below it the text is strange to it, its distributions
are noise, and what a quantization does to noise says nothing."""


@dataclass(frozen=True)
class Positions:
    """One number for each position. Where either model's logits are not finite, the others are NaN."""

    kl: Numbers
    same: Numbers
    right: Numbers
    source_loss: Numbers
    target_loss: Numbers
    source_finite: Numbers
    target_finite: Numbers


def measure(source: Rows, target: Rows, following: Numbers) -> Positions:
    """Compare logits at the same positions, a block at a time; `following` is the text's next id at each.

    Of vocabularies of different size the ids count that both have.
    """
    common = min(source.shape[1], target.shape[1])
    step = max(1, BLOCK // common)
    blocks = [slice(at, at + step) for at in range(0, len(source), step)]
    parts = [_block(source[b, :common], target[b, :common], following[b]) for b in blocks]
    return Positions(*(np.concatenate(numbers) for numbers in zip(*parts, strict=True)))


def _block(source: Rows, target: Rows, following: Numbers) -> tuple[Numbers, ...]:
    source, target = source.astype(np.float64), target.astype(np.float64)
    finite = [np.isfinite(rows).all(axis=1) for rows in (source, target)]
    bad = ~(finite[0] & finite[1])
    source[bad], target[bad] = 0.0, 0.0
    p, q, here = log_softmax(source), log_softmax(target), np.arange(len(source))
    best = p.argmax(axis=1)
    same, right = best == q.argmax(axis=1), best == following
    numbers = [divergence(p, q), same, right, -p[here, following], -q[here, following]]
    return *(np.where(bad, np.nan, n) for n in numbers), *finite


def summary(positions: Positions, lengths: Sequence[int]) -> Metrics:
    """Sum up the windows, of `lengths` positions each, that the source knows (KNOWN); all when it knows none."""
    ends = np.cumsum(lengths)
    right = [part.mean() for part in np.split(positions.right, ends[:-1])]
    known = np.array([not share < KNOWN for share in right])  # NaN stays in
    used = np.repeat(known if known.any() else np.ones_like(known), lengths)
    lost = [int((~finite[used]).sum()) for finite in (positions.source_finite, positions.target_finite)]
    good = used & positions.source_finite & positions.target_finite
    counts = {"known_windows": int(known.sum()), "source_nonfinite": lost[0], "target_nonfinite": lost[1]}
    tokens = int(good.sum())
    if not tokens:
        return Metrics(0, **counts)
    kl = positions.kl[good]
    return Metrics(
        tokens,
        mean_kl=float(kl.mean()),
        p99_kl=float(np.quantile(kl, 0.99)),
        max_kl=float(kl.max()),
        top1=float(positions.same[good].mean()),
        source_perplexity=perplexity(float(positions.source_loss[good].mean())),
        target_perplexity=perplexity(float(positions.target_loss[good].mean())),
        **counts,
    )


def log_softmax(logits: Rows) -> Rows:
    """Log-probabilities of rows of finite logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def divergence(p: Rows, q: Rows) -> Numbers:
    """KL(p‖q) in nats of each row of log-probabilities; rounding never makes it negative."""
    return np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)


def perplexity(loss: float) -> float:
    """e to the mean negative log-likelihood in nats; at most about the largest float."""
    return math.exp(min(loss, 709.0))
