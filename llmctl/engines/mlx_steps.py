"""The StepEngine over an mlx-lm model: one forward pass for all sequences of a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmctl.domain import Identity, Logits, Tokenizer
from llmctl.engines import mlx_caches
from llmctl.engines.mlx_batches import Batches
from llmctl.engines.mlx_caches import Caches
from llmctl.engines.mlx_logits import MlxLogits
from llmctl.engines.mlx_prefixes import Prefixes, common
from llmctl.errors import LlmctlError, RequestError

STEP = 256
"""mlx-lm makes room for this many tokens at a time."""
LEAST = 16
"""Fewer tokens are computed sooner than taken over."""


@dataclass
class Line:
    """A sequence: the tokens that its caches hold, and whether others may take them over: not after a failed pass."""

    adapter: str | None
    tokens: list[int] = field(default_factory=list)
    shared: bool = True


@dataclass(frozen=True)
class Room:
    """Memory for keys and values: `bytes` for all sequences and what is kept of ended ones, `token` for one token.

    `strict`: a sequence that does not fit is refused; else only what is kept makes way.
    """

    bytes: int
    token: int
    strict: bool = False


class MlxEngine:
    """Sequences lie in `Batches`; `models` are the model by adapter, None the one without.

    `fresh` makes the empty caches of one sequence. `together` False: of caches that cannot be joined, each sequence is
    computed alone.
    """

    mixes = False  # a prompt's chunk would make every running sequence as long, with padding
    most_logits = 2**22
    """A prompt's logits are wanted for its last token only, but mlx-lm's models compute all: from so many numbers up
    the last token gets a pass of its own, and those before it none of the logits."""

    def __init__(
        self,
        models: Mapping[str | None, Any],
        tokenizer: Tokenizer,
        identity: Identity,
        fresh: Callable[[], Caches],
        room: Room,
        *,
        together: bool = True,
    ) -> None:
        self.identity = identity
        self.tokenizer: Tokenizer = tokenizer
        self.prefill_chunk = 64 if identity.device == "cpu" else 512
        self.together = together
        self._models = dict(models)
        self._fresh, self._room = fresh, room
        self._batches, self._prefixes = Batches(), Prefixes()
        self._lines: dict[int, Line] = {}
        self._next = 0

    def open(self, *, adapter: str | None = None, seen: Any = None) -> int:
        if adapter not in self._models:
            raise RequestError(f"no adapter {adapter!r} is loaded", status=404, param="adapter")
        return self._add(Line(adapter), self._fresh())

    def reuse(self, seq: int, prompt: Sequence[int]) -> int:
        """Take over the longest beginning of the prompt that an ended or a running sequence of this adapter has."""
        line = self._lines[seq]
        kept, shared = self._prefixes.find(line.adapter, prompt)
        running = {
            common(other.tokens, prompt): key
            for key, other in self._lines.items()
            if key != seq and other.adapter == line.adapter and other.shared
        }
        most = max(running, default=0)
        if most > max(shared, LEAST - 1):
            other = running[most]
            if self._takes_over(seq, self._batches.copy(other), self._lines[other].tokens, most):
                return most
        if kept is None or shared < LEAST:
            return 0
        return shared if self._takes_over(seq, mlx_caches.copies(kept.caches), kept.tokens, shared) else 0

    def forward(self, feed: Mapping[int, Sequence[int]], every: Collection[int] = ()) -> Logits:
        """Sequences of one adapter in one pass, if they can be joined; rows as the protocol has them."""
        self._make_room(feed)
        rows: dict[int, Any] = {}
        for seqs in self._parts(feed):
            rows |= self._run({seq: list(feed[seq]) for seq in seqs}, every)
        for seq, tokens in feed.items():
            self._lines[seq].tokens += tokens
        return MlxLogits([rows[seq] for seq in feed])

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        return self.forward({seq: tokens})

    def prefill_all(self, seq: int, tokens: Sequence[int]) -> Any:
        """`prefill`, with the logits after each of the tokens: float32, [tokens, vocab]."""
        import numpy

        logits = self.forward({seq: tokens}, (seq,))
        return numpy.stack([logits.row(i) for i in range(len(tokens))])

    def step(self, feed: Mapping[int, int]) -> Logits:
        return self.forward({seq: [token] for seq, token in feed.items()})

    def fork(self, seq: int) -> int:
        line = self._lines[seq]
        return self._add(Line(line.adapter, list(line.tokens)), self._batches.copy(seq))

    def free(self, seq: int) -> None:
        import mlx.core as mx

        line = self._lines.pop(seq, None)
        if line is None:
            return
        keep = bool(line.tokens) and line.shared
        caches = self._batches.take(seq, keep=keep)
        if caches is not None and mlx_caches.finite(caches):
            self._prefixes.add(line.adapter, line.tokens, caches)
            self._prefixes.shrink(self._room.bytes - self._batches.bytes)
        if not self._lines:
            mx.clear_cache()

    @property
    def held(self) -> int:
        """Bytes of all sequences' keys and values."""
        return self._batches.bytes

    def forget(self) -> None:
        """Give up what is kept of ended sequences."""
        self._prefixes.clear()

    def close(self) -> None:
        self._lines.clear()
        self._batches.clear()
        self._prefixes.clear()
        self._models.clear()

    def _add(self, line: Line, caches: Caches) -> int:
        self._next += 1
        self._lines[self._next] = line
        self._batches.add(self._next, caches)
        return self._next

    def _takes_over(self, seq: int, caches: Caches, tokens: Sequence[int], shared: int) -> bool:
        """Make these caches of `tokens`, cut to what is shared, the sequence's; False if that cannot be."""
        if (shared < len(tokens) and not mlx_caches.trimmable(caches)) or not mlx_caches.finite(caches):
            return False
        if shared < len(tokens):
            mlx_caches.cut(caches, [len(tokens) - shared])
        self._batches.add(seq, caches)
        self._lines[seq].tokens = list(tokens[:shared])
        return True

    def _parts(self, feed: Collection[int]) -> list[list[int]]:
        """The sequences that are computed together."""
        if not self.together:
            return [[seq] for seq in feed]
        parts: dict[str | None, list[int]] = {}
        for seq in feed:
            parts.setdefault(self._lines[seq].adapter, []).append(seq)
        return list(parts.values())

    def _make_room(self, feed: Mapping[int, Sequence[int]]) -> None:
        """Give up kept sequences for what this pass adds; out of memory, before anything has changed, if that is not
        enough."""
        lengths = [len(self._lines[seq].tokens) + len(tokens) for seq, tokens in feed.items()]
        wanted = len(feed) * -(-max(lengths) // STEP) * STEP * self._room.token
        held = self._batches.bytes_without(feed)
        if self._room.strict and held + wanted > self._room.bytes:
            error = LlmctlError(
                f"out of memory: keys and values need {held + wanted:,} bytes, cache_bytes is {self._room.bytes:,}",
                hint="ask for fewer tokens, or for less at once",
            )
            error.code = "out_of_memory"
            raise error
        self._prefixes.shrink(self._room.bytes - held - wanted)

    def _model_of(self, seqs: Sequence[int]) -> Callable[..., Any]:
        """What computes these sequences: called with token ids and `cache` it gives logits."""
        model: Callable[..., Any] = self._models[self._lines[seqs[0]].adapter]
        return model

    def _run(self, feed: Mapping[int, list[int]], every: Collection[int]) -> dict[int, Any]:
        """One pass over sequences of one adapter; rows of logits by sequence."""
        group = self._batches.gather(feed)
        model = self._model_of(group.seqs)
        before = [copy.copy(cache) for cache in group.caches]
        tokens = [feed[seq] for seq in group.seqs]
        all_rows = [seq in every for seq in group.seqs]
        try:
            lengths = [len(row) for row in tokens]
            many = len(tokens) * max(lengths) * self.identity.vocab >= self.most_logits
            if many and min(lengths) > 1 and not any(all_rows):
                append(model, group.caches, [row[:-1] for row in tokens])
                tokens = [row[-1:] for row in tokens]
            logits = append(model, group.caches, tokens, logits=True)
        except BaseException:
            group.caches = before
            for seq in group.seqs:
                self._lines[seq].shared = False
            raise
        found = {}
        for row, seq in enumerate(group.seqs):
            end = len(tokens[row])
            found[seq] = logits[row, 0 if all_rows[row] else end - 1 : end]
        return found


class RewindingEngine(MlxEngine):
    """Of caches from which tokens can be taken back."""

    def rewind(self, seq: int, length: int) -> None:
        line = self._lines[seq]
        self._batches.cut(seq, len(line.tokens) - length)
        del line.tokens[length:]


def append(model: Any, caches: Caches, tokens: Sequence[list[int]], *, logits: bool = False) -> Any:
    """Append tokens to each row of caches; with `logits` those after every token, [rows, tokens, vocabulary].

    Shorter rows end with padding, which is taken away again.
    """
    import mlx.core as mx

    longest = max(map(len, tokens))
    if longest > 1:
        mlx_caches.straighten(caches)
    padding = [longest - len(row) for row in tokens]
    if any(padding):
        for cache in caches:
            cache.prepare(lengths=[len(row) for row in tokens], right_padding=padding)
    values = model(mx.array([row + [0] * pad for row, pad in zip(tokens, padding, strict=True)]), cache=caches)
    if any(padding):
        for cache in caches:
            cache.finalize()
    states = [cache.state for cache in caches]
    mx.eval(*([values, states] if logits else [states]))
    return values
