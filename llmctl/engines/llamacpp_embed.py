"""Embedding and reranking with llama.cpp: GGUF files that name a pooling, and generating ones where a request does.

An encoder computes many inputs in one batch, each whole. A causal model has a sequence of its context for each task,
whose pieces may lie between those of others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llmctl.decoding.sampling import nonfinite
from llmctl.domain import EMBED, RERANK, Identity
from llmctl.engines.embedding import sigmoid, sized, unit
from llmctl.engines.llamacpp_context import DecodeFailed
from llmctl.engines.llamacpp_library import BATCH, Library, pools_here
from llmctl.engines.llamacpp_tokenizer import GGUFTokenizer
from llmctl.engines.tasks import Work, checked, fits
from llmctl.errors import RequestError, Unsupported

NONE, MEAN, CLS, LAST, RANK = range(5)
NAMES = {MEAN: "mean", CLS: "cls", LAST: "last", RANK: "rank"}
AT_ONCE = 64  # inputs of one batch beyond a CPU, which gains nothing; there a vector depends on its own input alone
WHOLE = 8192  # most tokens of an input that must be one batch: the compute buffers are sized by it
PROBABLE = ("qwen3", "qwen3vl")  # whose ranks are probabilities already


@dataclass(frozen=True)
class Kind:
    """How a GGUF file embeds: its pooling, and whether a token sees those behind it."""

    architecture: str
    pooling: int
    causal: bool

    @property
    def pieces(self) -> bool:
        """Whether an input can be computed piece by piece."""
        return self.causal and self.pooling in (NONE, LAST)

    @property
    def verb(self) -> str:
        return RERANK if self.pooling == RANK else EMBED


def kind(library: Library, model: int) -> Kind | None:
    """What the file says; None for one that generates."""
    architecture = library.metadata(model, "general.architecture")
    named = library.metadata(model, f"{architecture}.pooling_type")
    causal = library.metadata(model, f"{architecture}.attention.causal") != "false"
    pooling = int(named) if named.isdigit() else NONE
    if not pooling and library.model_cls_label(model, 0):
        pooling = RANK  # llama.cpp's converter writes the labels of a classifier only
    found = Kind(architecture, pooling, causal)
    return found if found.pooling or not causal else None


def able(name: str, found: Kind, library: Library, model: int) -> None:
    """Unsupported for what llama.cpp would compute wrongly."""
    if found.pooling not in (NONE, *NAMES):
        raise Unsupported(f"{name}: pooling type {found.pooling} is not known")
    labels = library.model_n_cls_out(model)
    if found.pooling == RANK and labels != 1 and found.architecture not in PROBABLE:
        raise Unsupported(f"{name}: it sorts into {labels} classes; a reranker has one")
    tokenizer = library.metadata(model, "tokenizer.ggml.model")
    if found.pooling == RANK and found.architecture == "bert" and tokenizer == "bert":
        raise Unsupported(
            f"{name}: llama.cpp leaves the pooler of BERT cross-encoders and their token types out, "
            "so that its scores are not the model's",
            hint="run the safetensors checkpoint on the torch engine",
        )


def make_context(library: Library, model: int, found: Kind, context: int, sequences: int) -> int | None:
    """A context that gives vectors: `sequences` of `context` tokens for a causal model, one batch for an encoder."""
    params = library.context_default_params()
    size = BATCH if found.pieces else context
    params.n_seq_max = sequences if found.causal else AT_ONCE
    params.n_ctx = context * params.n_seq_max
    params.n_batch = params.n_ubatch = size
    if found.pooling == RANK and not pools_here(params):
        raise Unsupported("this build of llama.cpp lays out its parameters differently: it cannot rerank here")
    params.pooling_type = found.pooling if found.pooling == RANK else params.pooling_type
    made: int | None = library.init_from_model(model, params)
    if made and library.pooling_type(made) != found.pooling:
        library.free(made)
        return None
    if made:
        library.set_embeddings(made, True)
    return made


class LlamaEncoder:
    """Answers EMBED or RERANK with one context; the model behind it is freed by `close` unless it is another's."""

    def __init__(
        self, library: Library, model: int, context: int, found: Kind, tokenizer: GGUFTokenizer, identity: Identity,
        *, sequences: int, own: bool = True,
    ) -> None:  # fmt: skip
        self.identity = identity
        self.tokenizer: GGUFTokenizer = tokenizer
        self._lib, self._model, self._context, self._kind, self._own = library, model, context, found, own
        self._memory = library.get_memory(context)
        self._size = BATCH if found.pieces else identity.context
        self._batch = library.batch_init(self._size, 0, 1)
        self._free = list(range(sequences))
        self._width: int = library.model_n_cls_out(model) if found.pooling == RANK else library.model_n_embd_out(model)
        vocab = library.model_get_vocab(model)
        eos, sep = library.vocab_eos(vocab), library.vocab_sep(vocab)
        self._bos = [library.vocab_bos(vocab)] if library.vocab_get_add_bos(vocab) else []
        self._eos = [eos if eos >= 0 else sep] if library.vocab_get_add_eos(vocab) else []
        self._sep = [sep] if library.vocab_get_add_sep(vocab) else []
        self._ends = self._eos or self._sep

    def close(self) -> None:
        self._lib.batch_free(self._batch)
        self._lib.free(self._context)
        if self._own:
            self._lib.model_free(self._model)

    def embed(self, inputs: Sequence[str | Sequence[int]], pooling: str | None = None) -> Work:
        """A unit vector for each input; ids are taken as they are, texts get the special tokens of the file."""
        way = self._way(pooling)
        rows = []
        for given in inputs:
            rows.append(self._row(given))
            yield
        sized(len(rows), self._width)
        vectors = yield from self._compute(rows, way)
        return {"vectors": [unit(vector).tolist() for vector in vectors], "tokens": sum(map(len, rows))}

    def rerank(self, query: str, documents: Sequence[str]) -> Work:
        """How well each document answers the query, between 0 and 1."""
        asked, rows = self._literal(query, "query"), []
        for document in documents:
            ids = [*self._bos, *asked, *self._eos, *self._sep, *self._literal(document, "documents"), *self._ends]
            rows.append(checked(ids, "documents", self))
            yield
        found = yield from self._compute(rows, RANK)
        score: Callable[[float], float] = (lambda x: x) if self._kind.architecture in PROBABLE else sigmoid
        return {"scores": [score(float(one[0])) for one in found], "tokens": sum(map(len, rows))}

    def _way(self, pooling: str | None) -> int:
        own = self._kind.pooling
        if pooling is None:
            return own or MEAN
        way = next((way for way, name in NAMES.items() if name == pooling and way != RANK), None)
        if way is None or (way == CLS and self._kind.causal):
            raise RequestError(f"no pooling {pooling!r}: mean, last (or cls, of an encoder)", param="pooling")
        if own not in (NONE, way):
            raise RequestError(f"{self.identity.model} pools by {NAMES[own]}, not by {pooling}", param="pooling")
        return way

    def _row(self, given: str | Sequence[int]) -> list[int]:
        if isinstance(given, str):
            given = [*self._bos, *self._literal(given, "input"), *self._ends]
        return checked(given, "input", self)

    def _literal(self, text: str, param: str) -> list[int]:
        fits((text,), param, self)
        return self.tokenizer.encode(text, bos=False)

    # ── batches ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _groups(self, rows: Sequence[list[int]]) -> Iterator[list[int]]:
        """The places of rows, those of one batch together."""
        return batches(rows, self._size, 1 if self.identity.device == "cpu" else AT_ONCE)

    def _compute(self, rows: Sequence[list[int]], way: int) -> Generator[None, None, list[Any]]:
        """The pooled vectors of rows, in their order; a batch is a piece of work."""
        vectors: list[Any] = [None] * len(rows)
        if self._kind.causal:
            with self._sequence() as seq:
                for i, ids in enumerate(rows):
                    vectors[i] = yield from self._alone(ids, way, seq)
            return vectors
        for group in self._groups(rows):
            for i, vector in zip(group, self._together([rows[i] for i in group], way), strict=True):
                vectors[i] = vector
            yield
        return vectors

    @contextmanager
    def _sequence(self) -> Iterator[int]:
        if not self._free:
            raise DecodeFailed("all sequences are in use")
        seq = self._free.pop()
        try:
            yield seq
        finally:
            self._free.append(seq)

    def _alone(self, ids: list[int], way: int, seq: int) -> Generator[None, None, Any]:
        """One input in a sequence of a causal model."""
        self._lib.memory_seq_rm(self._memory, seq, -1, -1)
        total: Any = 0.0
        for at in range(0, len(ids), self._size):
            piece = ids[at : at + self._size]
            every = self._kind.pooling != NONE or way == MEAN
            self._decode([(seq, piece)], at, every=every)
            if self._kind.pooling:
                total = self._pooled(seq)
            elif way == MEAN:
                total = total + sum(self._token(i) for i in range(len(piece))) / len(ids)
            elif way == LAST or at == 0:
                total = self._token(len(piece) - 1 if way == LAST else 0)
            yield
        return total

    def _together(self, rows: Sequence[list[int]], way: int) -> list[Any]:
        """Inputs of an encoder in one batch."""
        import numpy as np

        self._decode(list(enumerate(rows)), 0, every=True)
        if self._kind.pooling:
            return [self._pooled(seq) for seq in range(len(rows))]
        vectors, start = [], 0
        for ids in rows:
            states = np.stack([self._token(start + i) for i in range(len(ids))])
            vectors.append({MEAN: states.mean(0), CLS: states[0], LAST: states[-1]}[way])
            start += len(ids)
        return vectors

    def _decode(self, work: Sequence[tuple[int, list[int]]], first: int, *, every: bool) -> None:
        batch, n = self._batch, 0
        for seq, ids in work:
            for offset, token in enumerate(ids):
                batch.token[n], batch.pos[n] = token, first + offset
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, seq
                batch.logits[n] = every or offset in (0, len(ids) - 1)
                n += 1
        batch.n_tokens = n
        code = self._lib.decode(self._context, batch)
        if code != 0:
            raise DecodeFailed(f"llama.cpp could not compute a batch of {n} tokens (llama_decode gave {code})")

    def _pooled(self, seq: int) -> Any:
        return self._copied(self._lib.get_embeddings_seq(self._context, seq))

    def _token(self, i: int) -> Any:
        return self._copied(self._lib.get_embeddings_ith(self._context, i))

    def _copied(self, pointer: Any) -> Any:
        import numpy as np

        if not pointer:
            raise DecodeFailed("llama.cpp gave no vector")
        vector = np.ctypeslib.as_array(pointer, (self._width,)).copy()
        if not np.isfinite(vector).all():
            raise nonfinite()
        return vector


def batches(rows: Sequence[list[int]], tokens: int, most: int) -> Iterator[list[int]]:
    """The places of rows, the longest first; of one batch `most`, and as many as have `tokens` together."""
    group: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        if group and (len(group) == most or sum(len(rows[j]) for j in group) + len(rows[i]) > tokens):
            yield group
            group = []
        group.append(i)
    if group:
        yield group
