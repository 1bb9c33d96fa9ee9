"""Choose one token from one row of logits, with every sampling field of one sequence.

The order is that of transformers and vLLM: mask and `logit_bias`, repetition penalty (CTRL, 1909.05858, over prompt and
generated tokens), presence and frequency penalties (OpenAI's definition, over generated tokens), temperature, top-k,
top-p (nucleus, 1904.09751), min-p (2407.01082), then one draw. Temperature 0 takes the maximum after the penalties.
Log-probabilities are those of the model itself, before any of this.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmctl.domain import LogitsMask, Sampling
from llmctl.errors import LlmctlError

NEGLIGIBLE = -28.0  # e⁻²⁸ of the likeliest: a whole vocabulary of such tokens is drawn less than once in 10⁶

Row = Any  # a float32 numpy array of shape (vocab,)


class NonFiniteLogits(LlmctlError):
    """The model's output has no finite maximum: broken weights, or an overflow."""

    code = "nonfinite_logits"


class NothingAllowed(LlmctlError):
    """The mask of a structured output leaves no token."""

    code = "nothing_allowed"


@dataclass(frozen=True)
class Choice:
    """One chosen token; with log-probabilities its own and the `top` ones as (id, logprob), most likely first."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def nonfinite() -> NonFiniteLogits:
    return NonFiniteLogits(
        "the model's logits are not finite",
        hint="check the files with `llmctl models verify`, or load it with dtype float32",
    )


class Sampler:
    """The state of one sequence's sampling: its random stream, its token counts, its mask.

    `index` counts the n sequences of a request; each has its own stream, PCG64 seeded by (seed, index), so that the
    same seed and prompt give the same tokens whatever else runs in the batch.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        vocab: int,
        *,
        index: int = 0,
        logprobs: int | None = None,
        mask: LogitsMask | None = None,
    ) -> None:
        self._s = sampling
        self._logprobs = logprobs
        self._mask = mask
        self._now: Any = None  # what the mask says of the next token
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index))))
        self._bias_ids = np.array([i for i, _ in sampling.logit_bias], dtype=np.int64)
        self._bias = np.array([b for _, b in sampling.logit_bias], dtype=np.float32)
        self._seen = self._counts = None
        if sampling.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab, dtype=bool)
            self._seen[np.asarray(prompt, dtype=np.int64)] = True
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = np.zeros(vocab, dtype=np.float32)

    def ready(self) -> bool:
        """Whether tokens can be chosen: a mask may be in the making. RequestError when it cannot be made."""
        return self._mask is None or self._mask.ready()

    @property
    def greedy(self) -> bool:
        """The engine's own argmax is this sequence's choice where it `allows` it: nothing changes the logits."""
        changed = len(self._bias) or self._seen is not None or self._counts is not None
        return self._s.temperature == 0 and self._logprobs is None and not changed

    def allows(self, token: int) -> bool:
        """Whether the mask, if there is one, lets this token be next."""
        allowed = self._allowed()
        return allowed is None or bool(allowed[token])

    def choose(self, row: Row) -> Choice:
        """The next token; call `accept` with it. NonFiniteLogits when the row has no finite maximum."""
        if not np.isfinite(row.max()):
            raise nonfinite()
        logits = self._adjust(row)
        token = int(logits.argmax()) if self._s.temperature == 0 else self._draw(logits)
        if self._logprobs is None:
            return Choice(token)
        logprob, top = log_probabilities(row, token, self._logprobs)
        return Choice(token, logprob, top)

    def accept(self, token: int) -> None:
        """Tell the sequence's history and mask what was chosen."""
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1
        if self._mask is not None:
            self._now = None
            self._mask.accept(token)

    def _adjust(self, row: Row) -> Row:
        s, logits = self._s, row
        if len(self._bias):
            logits = logits.copy()
            np.add.at(logits, self._bias_ids, self._bias)
        if self._seen is not None:
            scaled = np.where(logits > 0, logits / s.repetition_penalty, logits * s.repetition_penalty)
            logits = np.where(self._seen, scaled, logits)
        if self._counts is not None:
            logits = logits - s.frequency_penalty * self._counts - s.presence_penalty * (self._counts > 0)
        allowed = self._allowed()
        if allowed is not None:
            if not allowed.any():
                raise NothingAllowed("the structured output allows no token here")
            logits = np.where(allowed, logits, np.float32(-np.inf))
        return logits

    def _allowed(self) -> Any:
        """What the mask says of the next token, asked once for each."""
        if self._mask is not None and self._now is None:
            self._now = self._mask.allowed()
        return self._now

    def _draw(self, logits: Row) -> int:
        s = self._s
        with np.errstate(over="ignore"):  # far below the maximum, minus infinity is right
            scaled = (logits - logits.max()) / np.float32(max(s.temperature, 1e-6))
        least = np.float32(NEGLIGIBLE)
        if 0 < s.top_k < len(scaled):
            least = max(least, np.partition(scaled, -s.top_k)[-s.top_k])  # ties with the k-th stay, as in transformers
        ids = np.flatnonzero(scaled >= least)
        weights = np.exp(scaled[ids])
        if s.top_p < 1.0:
            kept = nucleus(weights, s.top_p)
            ids, weights = ids[kept], weights[kept]
        if s.min_p > 0.0:
            kept = np.flatnonzero(weights >= s.min_p * weights.max())
            ids, weights = ids[kept], weights[kept]
        return int(ids[(weights / race(int(self._random.integers(2**64, dtype=np.uint64)), ids)).argmax()])


def race(key: int, ids: Any) -> Any:
    """An exponential variate for each id, from `key` and the id alone (SplitMix64).

    The id with the largest weight / variate is a draw by the weights: the Gumbel-max trick (1411.0030). Its advantage
    over cumulative sums: rounding noise, as it comes with other neighbours in a batch, or a token more or less at the
    edge of top-p changes the choice only where that very token would have been chosen.
    """
    z = np.uint64(key) + ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return -np.log(((z >> np.uint64(11)) + 0.5) * 2.0**-53)


def nucleus(weights: Row, top_p: float) -> Any:
    """Indices, ascending, of the fewest most likely entries that hold `top_p` of the mass; at least one.

    Sorts only the head of the distribution: the whole vocabulary is rarely needed.
    """
    needed = top_p * weights.sum(dtype=np.float64)
    head = 64
    while True:
        head = min(head, len(weights))
        first = np.argpartition(weights, -head)[-head:] if head < len(weights) else np.arange(len(weights))
        order = first[np.lexsort((first, -weights[first]))]
        mass = np.cumsum(weights[order], dtype=np.float64)
        if mass[-1] >= needed or head == len(weights):
            count = int(np.searchsorted(mass, needed, side="left")) + 1
            return np.sort(order[:count])
        head *= 8


def log_probabilities(row: Row, token: int, top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The log-probability of `token` under the raw distribution, and the `top` most likely (id, logprob)."""
    peak = row.max()
    total = peak + np.log(np.exp(row - peak).sum(dtype=np.float64))
    best: tuple[tuple[int, float], ...] = ()
    if top:
        top = min(top, len(row))
        ids = np.argpartition(row, -top)[-top:]
        ids = ids[np.lexsort((ids, -row[ids]))]
        best = tuple((int(i), float(row[i] - total)) for i in ids)
    return float(row[token] - total), best
