"""One pass through an engine: what it computes together, and the rows of logits that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmctl.decoding.sampling import Choice, Sampler, nonfinite
from llmctl.domain import Logits, StepEngine
from llmctl.engines.jobs import Piece, Running


class Passes:
    """What of the engine protocol's optional methods `engine` has, and how a pass is made with them."""

    def __init__(self, engine: StepEngine) -> None:
        self._engine = engine
        self._forward: Callable[..., Logits] | None = getattr(engine, "forward", None)
        self._rewind: Callable[[int, int], None] | None = getattr(engine, "rewind", None)
        self._reuse: Callable[[int, Sequence[int]], int] | None = getattr(engine, "reuse", None)
        self.together = self._forward is not None
        self.mixes: bool = self.together and getattr(engine, "mixes", True)
        self.rewinds = self.together and self._rewind is not None

    def joins(self, piece: Piece) -> bool:
        """Whether a piece of a prompt can be computed together with others; one with media cannot."""
        return self.together and piece.work.job.seen is None

    def reuse(self, handle: int, prompt: Sequence[int]) -> int:
        """How many of the prompt's tokens the new sequence holds already."""
        return self._reuse(handle, prompt) if self._reuse else 0

    def rewind(self, running: Running, length: int) -> None:
        assert self._rewind is not None, "drafts are made for engines that can rewind"
        self._rewind(running.handle, length)

    def compute(
        self, pieces: Sequence[Piece], running: Sequence[Running], proposed: Mapping[int, Sequence[int]]
    ) -> Rows:
        """A row for each piece, then for each running sequence one, and one more for each token proposed for it."""
        if not pieces and not proposed:
            return Rows(self._engine.step({r.handle: r.sequence.last for r in running}))
        if pieces and not self.joins(pieces[0]):
            (piece,) = pieces
            return Rows(self._engine.prefill(piece.handle, piece.tokens))
        assert self._forward is not None, "nothing is proposed without it"
        feed = {piece.handle: piece.tokens for piece in pieces}
        feed |= {r.handle: [r.sequence.last, *proposed.get(r.handle, ())] for r in running}
        return Rows(self._forward(feed, frozenset(proposed)))


class Rows:
    """Logits, and the choices from them: greedy ones by the engine's own argmax, asked for once."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits
        self._best: tuple[Sequence[Any], Sequence[Any]] | None = None

    def choose(self, sampler: Sampler, row: int) -> Choice:
        """The sampler's choice from a row; NonFiniteLogits when that has no finite maximum."""
        if sampler.greedy:
            self._best = self._best or self._logits.argmax()
            ids, finite = self._best
            if not finite[row]:
                raise nonfinite()
            if sampler.allows(ids[row]):
                return Choice(int(ids[row]))
        return sampler.choose(self._logits.row(row))
