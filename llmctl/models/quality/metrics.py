"""How far one next-token distribution is from another, position by position, in float64.

The Kullback-Leibler divergence (Kullback and Leibler, "On Information and Sufficiency", 1951) of the target Q from the
source P is sum P(x) (ln P(x) - ln Q(x)), in nats. llama.cpp's perplexity tool reports the same quantities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmctl.models.quality.report import Metrics

Rows = Any  # a numpy array of shape [positions, vocab]
BLOCK = 2**22  # numbers in memory at once; of float64, 32 MiB in each of a handful of arrays


@dataclass
class Comparison:
    """Collects positions block by block; `metrics` sums up."""

    _kl: list[Any] = field(default_factory=list)
    _same: int = 0
    _source_loss: float = 0.0
    _target_loss: float = 0.0
    _source_bad: int = 0
    _target_bad: int = 0

    def add(self, source: Rows, target: Rows, following: Any) -> None:
        """Logits over the same ids at the same positions, and the id that follows each of them in the text."""
        source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
        source_good, target_good = np.isfinite(source).all(axis=1), np.isfinite(target).all(axis=1)
        self._source_bad += int((~source_good).sum())
        self._target_bad += int((~target_good).sum())
        good = source_good & target_good
        if not good.any():
            return
        p, q, ids = log_softmax(source[good]), log_softmax(target[good]), np.asarray(following)[good]
        self._kl.append(divergence(p, q))
        self._same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        rows = np.arange(len(ids))
        self._source_loss -= float(p[rows, ids].sum())
        self._target_loss -= float(q[rows, ids].sum())

    def metrics(self) -> Metrics:
        kl = np.concatenate(self._kl) if self._kl else np.empty(0)
        if not len(kl):
            return Metrics(0, source_nonfinite=self._source_bad, target_nonfinite=self._target_bad)
        return Metrics(
            tokens=len(kl),
            mean_kl=float(kl.mean()),
            p99_kl=float(np.quantile(kl, 0.99)),
            max_kl=float(kl.max()),
            top1=self._same / len(kl),
            source_perplexity=perplexity(self._source_loss / len(kl)),
            target_perplexity=perplexity(self._target_loss / len(kl)),
            source_nonfinite=self._source_bad,
            target_nonfinite=self._target_bad,
        )


def compare(source: Rows, target: Rows, following: Any) -> Metrics:
    """All positions, a block at a time; of vocabularies of different size the ids that both have."""
    common = min(source.shape[1], target.shape[1])
    step = max(1, BLOCK // common)
    comparison = Comparison()
    for at in range(0, len(source), step):
        block = slice(at, at + step)
        comparison.add(source[block, :common], target[block, :common], following[block])
    return comparison.metrics()


def log_softmax(logits: Rows) -> Rows:
    """Log-probabilities of rows of finite logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def divergence(p: Rows, q: Rows) -> Any:
    """KL(p‖q) in nats of each row of log-probabilities; rounding never makes it negative."""
    return np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)


def perplexity(loss: float) -> float:
    """e to the mean negative log-likelihood in nats; at most the largest float."""
    return math.exp(min(loss, 709.0))
