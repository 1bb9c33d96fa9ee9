"""Computing with llama.cpp: sequences in slots, batches, logits.

Each of `parallel` slots is one sequence of the llama.cpp context. It keeps its keys and values when its sequence
ends, and a new sequence takes over the slot that begins with the same tokens: only what differs is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmctl.domain import GenerateRequest, Identity, Logits, Tokenizer
from llmctl.engines.llamacpp_library import BATCH, Library
from llmctl.engines.llamacpp_tokenizer import GGUFTokenizer
from llmctl.engines.llamacpp_vision import Image, Seen, Vision
from llmctl.engines.tasks import Work
from llmctl.errors import LlmctlError, RequestError

# A chunk of a prompt should take no longer: a cancel waits for it, and so do the running sequences.
CHUNK_SECONDS = 0.5
SMALLEST_CHUNK, FIRST_CHUNK = 16, 64
OF_A_PICTURE = -1
"""Stands for a token of a picture: no prompt has it, so that what a slot holds is reused up to its first picture."""


class DecodeFailed(LlmctlError):
    """llama.cpp could not compute a batch."""

    code = "engine_failed"


@dataclass
class Slot:
    """A sequence of the context: the tokens whose keys and values it holds, and since when it is free.

    `shift` is by how much the next token's position differs from their number: a picture may have fewer positions than
    tokens.
    """

    id: int
    tokens: list[int] = field(default_factory=list)
    shift: int = 0
    taken: bool = False
    freed: int = 0

    def common(self, tokens: Sequence[int]) -> int:
        """How many tokens both begin with."""
        if self.tokens == tokens[: len(self.tokens)]:
            return len(self.tokens)
        return next((i for i, (a, b) in enumerate(zip(self.tokens, tokens, strict=False)) if a != b), len(tokens))


@dataclass
class Open:
    """A sequence of the engine protocol: its tokens, and its slot once something had to be computed."""

    tokens: list[int] = field(default_factory=list)
    slot: Slot | None = None
    later: Later | None = None
    cached: int = 0
    seen: Seen | None = None


class Embedding(Protocol):
    """What makes vectors of the same model."""

    def embed(self, inputs: Sequence[str | Sequence[int]], pooling: str | None = None) -> Work: ...
    def close(self) -> None: ...


class Deciding(Protocol):
    """llama.cpp's decision handler over the same file."""

    def decide(
        self, engine: LlamaEngine, state: Any, questions: Any, assets: Mapping[str, Any] | None = None
    ) -> Work: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Beside:
    """What answers the tasks of a model that generates, each with a context of its own."""

    encoder: Callable[[LlamaEngine], Embedding]
    decider: Deciding | None = None
    vision: Vision | None = None


class LlamaEngine:
    """The StepEngine over one llama.cpp context."""

    def __init__(
        self, library: Library, model: int, context: int, tokenizer: Tokenizer, identity: Identity, beside: Beside
    ) -> None:
        self.tokenizer: Tokenizer = tokenizer
        self.identity = identity
        self.prefill_chunk = FIRST_CHUNK
        self._lib, self._model, self._context = library, model, context
        self._memory = library.get_memory(context)
        self._batch = library.batch_init(max(BATCH, identity.parallel), 0, 1)
        self._slots = [Slot(i) for i in range(identity.parallel)]
        self._open: dict[int, Open] = {}
        self._beside = beside
        self._encoder: Embedding | None = None
        self._made = 0  # sequences so far: the next handle, and the clock of `Slot.freed`

    # ── the engine protocol ─────────────────────────────────────────────────────────────────────────────────────────

    def open(self, *, adapter: str | None = None, seen: Any = None) -> int:
        if adapter is not None:
            raise RequestError(f"no adapter {adapter!r} is loaded", status=404, param="adapter")
        return self._add(Open(seen=seen))

    def see(self, request: GenerateRequest) -> tuple[list[int], Seen]:
        """The prompt of a chat with pictures, and what its parts are."""
        assert self._beside.vision is not None and isinstance(self.tokenizer, GGUFTokenizer), "it takes no images"
        seen = self._beside.vision.see(request, self.tokenizer, self.identity)
        return seen.ids(min(self.tokenizer.eos_ids, default=0)), seen

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        """Append prompt tokens. While some free slot holds all of the prompt so far, computing waits for the rest."""
        sequence = self._open[seq]
        if sequence.seen is not None:
            return self._look(sequence, sequence.seen)
        sequence.tokens.extend(tokens)
        size = len(sequence.tokens)
        if sequence.slot is None and any(not s.taken and s.common(sequence.tokens) == size for s in self._slots):
            sequence.later = Later(lambda: self._compute(sequence))
            return sequence.later
        return self._compute(sequence)

    def prefill_all(self, seq: int, tokens: Sequence[int]) -> Any:
        """`prefill` of at most BATCH tokens, with the logits after each of them: float32, [tokens, vocab].

        A sequence that begins so reuses no slot's tokens: all of them are computed.
        """
        import numpy as np

        sequence = self._open[seq]
        if sequence.slot is None:
            sequence.slot = self._take([])
        sequence.tokens.extend(tokens)
        rows = self._decode([(sequence.slot, list(tokens))], every=True)
        return np.stack([rows.row(i) for i in range(len(tokens))])

    def fork(self, seq: int) -> int:
        source = self._open[seq]
        if source.slot is None and source.later is not None:
            source.later.now()
        copy = Open(list(source.tokens), cached=source.cached)
        if source.slot is not None:
            copy.slot = self._take([])
            self._lib.memory_seq_cp(self._memory, source.slot.id, copy.slot.id, -1, -1)
            copy.slot.tokens, copy.slot.shift = list(source.slot.tokens), source.slot.shift
        return self._add(copy)

    def step(self, feed: Mapping[int, int]) -> Logits:
        work = []
        for seq, token in feed.items():
            sequence = self._open[seq]
            sequence.tokens.append(token)
            assert sequence.slot is not None, "a step before the prompt"
            work.append((sequence.slot, [token]))
        return self._decode(work)

    def free(self, seq: int) -> None:
        sequence = self._open.pop(seq, None)
        if sequence is not None and sequence.slot is not None:
            sequence.slot.taken = False
            sequence.slot.freed = self._made

    def embed(self, inputs: Sequence[str | Sequence[int]], pooling: str | None = None) -> Work:
        """Vectors by a context of its own, made when first asked for."""
        self._encoder = self._encoder or self._beside.encoder(self)
        return self._encoder.embed(inputs, pooling)

    def decide(self, state: Any, questions: Any, assets: Mapping[str, Any] | None = None) -> Work:
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
        self._lib.batch_free(self._batch)
        self._lib.free(self._context)
        self._lib.model_free(self._model)

    def cached(self, seq: int) -> int:
        """How many of an open sequence's prompt tokens were found in its slot."""
        return self._open[seq].cached

    # ── slots and batches ───────────────────────────────────────────────────────────────────────────────────────────

    def _add(self, sequence: Open) -> int:
        self._made += 1
        self._open[self._made] = sequence
        return self._made

    def _compute(self, sequence: Open) -> Logits:
        """Bring the sequence's slot up to its tokens; the logits of the last one."""
        if sequence.slot is None:
            sequence.slot = self._take(sequence.tokens)
            sequence.cached = len(sequence.slot.tokens)
        missing = sequence.tokens[len(sequence.slot.tokens) :]
        start = time.monotonic()
        for at in range(0, len(missing), BATCH):
            rows = self._decode([(sequence.slot, missing[at : at + BATCH])])
        if len(missing) >= SMALLEST_CHUNK:
            speed = len(missing) / (time.monotonic() - start)
            self.prefill_chunk = min(max(int(speed * CHUNK_SECONDS), SMALLEST_CHUNK), BATCH)
        return rows

    def _look(self, sequence: Open, seen: Seen) -> Logits:
        """Compute a whole prompt with pictures into a slot of its own; the logits of its last token."""
        slot = sequence.slot = self._take([])
        rows: Logits | None = None
        for part in seen.parts:
            if isinstance(part, Image):
                self._picture(slot, part)
                continue
            for at in range(0, len(part), BATCH):
                rows = self._decode([(slot, part[at : at + BATCH])])
        sequence.tokens, sequence.seen = list(slot.tokens), None
        if rows is None or isinstance(seen.parts[-1], Image):
            raise RequestError("nothing stands behind the last image of this prompt", param="messages")
        return rows

    def _picture(self, slot: Slot, image: Image) -> None:
        """Compute a picture behind what the slot holds."""
        assert self._beside.vision is not None
        code = self._beside.vision.evaluate(self._context, image, len(slot.tokens) + slot.shift, slot.id)
        if code != 0:
            self._lib.memory_seq_rm(self._memory, slot.id, -1, -1)
            slot.tokens, slot.shift = [], 0
            raise DecodeFailed(f"llama.cpp could not compute a picture of {image.tokens} tokens (code {code})")
        slot.tokens += [OF_A_PICTURE] * image.tokens
        slot.shift += image.positions - image.tokens

    def _take(self, tokens: Sequence[int]) -> Slot:
        """The free slot that begins most like `tokens`, cut to what is equal but for the last token, whose logits are
        wanted; of equally good ones that which has been free for longest."""
        free = [slot for slot in self._slots if not slot.taken]
        if not free:
            raise DecodeFailed(f"all {len(self._slots)} sequences are in use")
        slot = max(free, key=lambda s: (s.common(tokens), -s.freed))
        keep = max(0, min(slot.common(tokens), len(tokens) - 1))
        if keep == 0 or (keep < len(slot.tokens) and not self._lib.memory_seq_rm(self._memory, slot.id, keep, -1)):
            self._lib.memory_seq_rm(self._memory, slot.id, -1, -1)  # a recurrent state cannot be cut
            keep = 0
        slot.tokens, slot.shift = list(tokens[:keep]), 0
        slot.taken = True
        return slot

    def _decode(self, work: Sequence[tuple[Slot, list[int]]], *, every: bool = False) -> Logits:
        """Append tokens to slots in one batch; a row of logits for each slot's last one, or for every token."""
        batch, n, wanted = self._batch, 0, []
        for slot, tokens in work:
            for offset, token in enumerate(tokens):
                batch.token[n] = token
                batch.pos[n] = len(slot.tokens) + slot.shift + offset
                batch.n_seq_id[n] = 1
                batch.seq_id[n][0] = slot.id
                batch.logits[n] = every or offset == len(tokens) - 1
                if batch.logits[n]:
                    wanted.append(n)
                n += 1
        batch.n_tokens = n
        code = self._lib.decode(self._context, batch)
        if code != 0:
            for slot, _ in work:
                self._lib.memory_seq_rm(self._memory, slot.id, -1, -1)
                slot.tokens, slot.shift = [], 0
            raise DecodeFailed(f"llama.cpp could not compute a batch of {n} tokens (llama_decode gave {code})")
        for slot, tokens in work:
            slot.tokens += tokens
        return Rows([self._lib.get_logits_ith(self._context, i) for i in wanted], self.identity.vocab)


class Rows:
    """Logits in llama.cpp's own memory, valid until its next batch."""

    def __init__(self, pointers: Sequence[Any], vocab: int) -> None:
        import numpy as np

        self._rows = [np.ctypeslib.as_array(pointer, (vocab,)) for pointer in pointers]

    def argmax(self) -> tuple[list[int], list[bool]]:
        import numpy as np

        ids = [int(row.argmax()) for row in self._rows]  # NaN counts as the greatest
        return ids, [bool(np.isfinite(row[id])) for row, id in zip(self._rows, ids, strict=True)]

    def row(self, i: int) -> Any:
        return self._rows[i].copy()


class Later:
    """Logits that are computed when first asked for."""

    def __init__(self, compute: Callable[[], Logits]) -> None:
        self._compute = compute
        self._logits: Logits | None = None

    def now(self) -> Logits:
        if self._logits is None:
            self._logits = self._compute()
        return self._logits

    def argmax(self) -> tuple[Sequence[int], Sequence[bool]]:
        return self.now().argmax()

    def row(self, i: int) -> Any:
        return self.now().row(i)
