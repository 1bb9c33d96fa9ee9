"""Computing with llama.cpp: which slot a sequence gets, what is computed together.

Each of `parallel` slots is one sequence of the llama.cpp context. It keeps its keys and values when its sequence
ends, and a new sequence takes over the slot that begins with the same tokens: only what differs is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmctl.domain import GenerateRequest, Identity, Logits, Tokenizer
from llmctl.engines import tasks
from llmctl.engines.llamacpp_context import MOST, OF_A_PICTURE, Context, DecodeFailed, Slot, Work
from llmctl.engines.llamacpp_library import Library
from llmctl.engines.llamacpp_tokenizer import GGUFTokenizer
from llmctl.engines.llamacpp_vision import Image, Seen, Vision
from llmctl.errors import RequestError

LARGEST_CHUNK = 1024
WORTH_A_COPY = 32
"""Tokens that another slot has to hold more than a free one: a copy of it moves all its keys and values."""
WORTH_A_SLOT = 8
"""Tokens of a common beginning that decide which slot is taken: fewer are chance, and neighbours compute best."""


@dataclass
class Open:
    """A sequence of the engine protocol: its tokens, and its slot once something had to be computed."""

    tokens: list[int] = field(default_factory=list)
    adapter: str | None = None
    slot: Slot | None = None
    seen: Seen | None = None


class Embedding(Protocol):
    """What makes vectors of the same model."""

    def embed(self, inputs: Sequence[str | Sequence[int]], pooling: str | None = None) -> tasks.Work: ...
    def close(self) -> None: ...


class Deciding(Protocol):
    """llama.cpp's decision handler over the same file."""

    def decide(
        self, engine: LlamaEngine, state: Any, questions: Any, assets: Mapping[str, Any] | None = None
    ) -> tasks.Work: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Beside:
    """What answers the tasks of a model that generates, each with a context of its own, and its adapters by name."""

    encoder: Callable[[LlamaEngine], Embedding]
    decider: Deciding | None = None
    vision: Vision | None = None
    adapters: Mapping[str, int] = field(default_factory=dict)


class LlamaEngine:
    """The StepEngine over one llama.cpp context."""

    def __init__(
        self, library: Library, model: int, context: Context, tokenizer: Tokenizer, identity: Identity, beside: Beside
    ) -> None:
        self.tokenizer: Tokenizer = tokenizer
        self.identity = identity
        self.prefill_chunk = LARGEST_CHUNK
        self.cuts = context.cuts  # whether `rewind` costs nothing
        self._lib, self._model, self._context = library, model, context
        self._open: dict[int, Open] = {}
        self._beside = beside
        self._encoder: Embedding | None = None
        self._made = 0  # sequences so far: the next handle, and the clock of `Slot.freed`

    # ── the engine protocol ─────────────────────────────────────────────────────────────────────────────────────────

    def open(self, *, adapter: str | None = None, seen: Any = None) -> int:
        if adapter is not None and adapter not in self._beside.adapters:
            raise RequestError(f"no adapter {adapter!r} is loaded", status=404, param="adapter")
        return self._add(Open(adapter=adapter, seen=seen))

    def see(self, request: GenerateRequest) -> tuple[list[int], Seen]:
        """The prompt of a chat with pictures, and what its parts are."""
        assert self._beside.vision is not None and isinstance(self.tokenizer, GGUFTokenizer), "it takes no images"
        seen = self._beside.vision.see(request, self.tokenizer, self.identity)
        return seen.ids(min(self.tokenizer.eos_ids, default=0)), seen

    def reuse(self, seq: int, prompt: Sequence[int]) -> int:
        """Give a new sequence the slot that begins most like `prompt`; how many of its tokens that holds."""
        sequence = self._open[seq]
        slot = sequence.slot = self._take(prompt, sequence.adapter)
        sequence.tokens = list(slot.tokens)
        return len(sequence.tokens)

    def forward(self, feed: Mapping[int, Sequence[int]], every: AbstractSet[int] = frozenset()) -> Logits:
        """Append tokens to sequences, those of one adapter together; an error leaves all as they were."""
        held = {seq: len(self._open[seq].tokens) for seq in feed}
        try:
            rows = self._rows({seq: self._work(seq, tokens, seq in every) for seq, tokens in feed.items()})
        except BaseException:
            for seq, length in held.items():
                self.rewind(seq, length)
            raise
        return Rows(rows)

    def rewind(self, seq: int, length: int) -> None:
        """Cut a sequence to its first `length` tokens; what its slot cannot give back is computed again."""
        sequence = self._open[seq]
        del sequence.tokens[length:]
        if sequence.slot is not None and len(sequence.slot.tokens) > length:
            self._context.cut(sequence.slot, length)

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        seen = self._open[seq].seen
        return self.forward({seq: tokens}) if seen is None else self._look(self._open[seq], seen)

    def prefill_all(self, seq: int, tokens: Sequence[int]) -> Any:
        """`prefill`, with the logits after each of the tokens: float32, [tokens, vocab]."""
        import numpy as np

        rows = self.forward({seq: tokens}, {seq})
        return np.stack([rows.row(i) for i in range(len(tokens))])

    def step(self, feed: Mapping[int, int]) -> Logits:
        return self.forward({seq: [token] for seq, token in feed.items()})

    def fork(self, seq: int) -> int:
        source = self._open[seq]
        copy = Open(list(source.tokens), source.adapter)
        if source.slot is not None:
            copy.slot = self._take([], source.adapter)
            self._context.copy(source.slot, copy.slot)
        return self._add(copy)

    def free(self, seq: int) -> None:
        sequence = self._open.pop(seq, None)
        if sequence is not None and sequence.slot is not None:
            sequence.slot.taken = False
            sequence.slot.freed = self._made

    def embed(self, inputs: Sequence[str | Sequence[int]], pooling: str | None = None) -> tasks.Work:
        """Vectors by a context of its own, made when first asked for."""
        self._encoder = self._encoder or self._beside.encoder(self)
        return self._encoder.embed(inputs, pooling)

    def decide(self, state: Any, questions: Any, assets: Mapping[str, Any] | None = None) -> tasks.Work:
        assert self._beside.decider is not None, "its identity does not offer it"
        return self._beside.decider.decide(self, state, questions, assets)

    def close(self) -> None:
        if self._encoder:
            self._encoder.close()
        if self._beside.decider:
            self._beside.decider.close()
        if self._beside.vision:
            self._beside.vision.close()
        self._open.clear()
        self._context.close()
        self._lib.model_free(self._model)

    # ── slots ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _add(self, sequence: Open) -> int:
        self._made += 1
        self._open[self._made] = sequence
        return self._made

    def _take(self, tokens: Sequence[int], adapter: str | None) -> Slot:
        """A free slot, holding the beginning of `tokens` without the last, whose logits are wanted.

        It is the one that holds most of it; of equally good ones that which has been free for longest. What another
        one holds is copied where that saves enough.
        """
        slots = self._context.slots
        free = [slot for slot in slots if not slot.taken]
        if not free:
            raise DecodeFailed(f"all {len(slots)} sequences are in use")
        common = {slot.id: slot.common(tokens, adapter) for slot in slots}
        slot = max(free, key=lambda s: (common[s.id] if common[s.id] >= WORTH_A_SLOT else 0, -s.freed))
        other = max(slots, key=lambda s: common[s.id])
        held = common[slot.id]
        if common[other.id] - held >= WORTH_A_COPY:
            slot, held = min(free, key=lambda s: s.freed), common[other.id]
            self._context.copy(other, slot)
        self._context.cut(slot, max(0, min(held, len(tokens) - 1)))
        slot.taken, slot.adapter = True, adapter
        return slot

    # ── batches ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _work(self, seq: int, tokens: Sequence[int], every: bool) -> Work:
        """What has to be computed for a sequence: these tokens, and those that its slot has lost."""
        sequence = self._open[seq]
        if sequence.slot is None:
            sequence.slot = self._take([], sequence.adapter)
        lost = sequence.tokens[len(sequence.slot.tokens) :]
        if OF_A_PICTURE in lost:
            raise DecodeFailed("what the model saw in a picture is lost: ask again")
        for at in range(0, len(lost), MOST):
            self._use(sequence.adapter)
            self._context.decode([Work(sequence.slot, lost[at : at + MOST])])
        sequence.tokens += tokens
        return Work(sequence.slot, list(tokens), every)

    def _rows(self, work: Mapping[int, Work]) -> Any:
        """The rows of the work, in its order: one array, in llama.cpp's memory where one call made it."""
        import numpy as np

        calls = list(self._calls(work))
        made: dict[int, list[Any]] = {seq: [] for seq in work}
        for adapter, pieces in calls:
            self._use(adapter)
            rows, at = self._context.decode([piece for _, piece in pieces]), 0
            if len(calls) == 1:
                return rows
            for seq, piece in pieces:
                made[seq].append(rows[at : at + piece.rows].copy())
                at += piece.rows
        return np.concatenate([row for seq, rows in made.items() for row in (rows if work[seq].every else rows[-1:])])

    def _calls(self, work: Mapping[int, Work]) -> Iterator[tuple[str | None, list[tuple[int, Work]]]]:
        """The work in calls of at most MOST tokens, each with one adapter."""
        for adapter in dict.fromkeys(self._open[seq].adapter for seq in work):
            call: list[tuple[int, Work]] = []
            for seq, each in work.items():
                if self._open[seq].adapter != adapter:
                    continue
                for at in range(0, len(each.tokens), MOST):
                    piece = Work(each.slot, each.tokens[at : at + MOST], each.every)
                    if sum(len(other.tokens) for _, other in call) + len(piece.tokens) > MOST:
                        yield adapter, call
                        call = []
                    call.append((seq, piece))
            yield adapter, call

    def _use(self, adapter: str | None) -> None:
        if self._beside.adapters:
            self._context.use(None if adapter is None else self._beside.adapters[adapter])

    # ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self, sequence: Open, seen: Seen) -> Logits:
        """Compute a whole prompt with pictures into a slot of its own; the logits of its last token."""
        slot = sequence.slot = self._take([], sequence.adapter)
        self._use(sequence.adapter)
        rows: Any = None
        for part in seen.parts:
            if isinstance(part, Image):
                self._picture(slot, part)
                continue
            for at in range(0, len(part), MOST):
                rows = self._context.decode([Work(slot, part[at : at + MOST])])
        sequence.tokens, sequence.seen = list(slot.tokens), None
        if rows is None or isinstance(seen.parts[-1], Image):
            raise RequestError("nothing stands behind the last image of this prompt", param="messages")
        return Rows(rows)

    def _picture(self, slot: Slot, image: Image) -> None:
        """Compute a picture behind what the slot holds."""
        assert self._beside.vision is not None
        code = self._beside.vision.evaluate(self._context.pointer, image, slot.position, slot.id)
        if code != 0:
            self._context.cut(slot, 0)
            raise DecodeFailed(f"llama.cpp could not compute a picture of {image.tokens} tokens (code {code})")
        slot.tokens += [OF_A_PICTURE] * image.tokens
        slot.shift += image.positions - image.tokens


class Rows:
    """Logits, in llama.cpp's own memory until its next batch."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def argmax(self) -> tuple[Sequence[int], Sequence[bool]]:
        import numpy as np

        ids = [int(row.argmax()) for row in self._rows]  # NaN counts as the greatest
        return ids, [bool(np.isfinite(row[id])) for row, id in zip(self._rows, ids, strict=True)]

    def row(self, i: int) -> Any:
        return self._rows[i].copy()
