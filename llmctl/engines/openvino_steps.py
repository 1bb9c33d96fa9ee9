"""Computing with OpenVINO's paged attention: tokens of many sequences in one inference, logits of the wanted ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmctl.domain import Identity, Logits, Tokenizer
from llmctl.engines.openvino_blocks import Held, Pool
from llmctl.engines.openvino_graph import CACHES, WANTED, Compiled, block_shape
from llmctl.errors import RequestError

LARGEST_CHUNK = 1024


class OpenVinoEngine:
    """The StepEngine over one compiled model."""

    mixes = True

    def __init__(self, compiled: Compiled, tokenizer: Tokenizer, identity: Identity, blocks: int) -> None:
        self.identity = identity
        self.tokenizer: Tokenizer = tokenizer
        self.prefill_chunk = LARGEST_CHUNK
        self._request: Any = compiled.model.create_infer_request()
        self._pool = Pool(blocks, compiled.block)
        self._caches = _caches(compiled, self._request, blocks)
        self._open: dict[int, Held] = {}
        self._made = 0

    # ── the engine protocol ─────────────────────────────────────────────────────────────────────────────────────────

    def open(self, *, adapter: str | None = None, seen: Any = None) -> int:
        if adapter is not None:
            raise RequestError(f"no adapter {adapter!r} is loaded", status=404, param="adapter")
        return self._add(Held())

    def reuse(self, seq: int, prompt: Sequence[int]) -> int:
        return self._pool.reuse(self._open[seq], prompt)

    def forward(self, feed: Mapping[int, Sequence[int]], every: Collection[int] = ()) -> Logits:
        before = {seq: len(self._open[seq].tokens) for seq in feed}
        try:
            for seq, tokens in feed.items():
                self._copy(self._pool.extend(self._open[seq], tokens))
            self._infer([(self._open[seq], before[seq]) for seq in feed], [seq in every for seq in feed])
        except BaseException:  # as if it had never been tried: each request may be tried alone
            for seq, length in before.items():
                self._pool.rewind(self._open[seq], length)
            raise
        for seq in feed:
            self._pool.computed(self._open[seq])
        return Rows(self._request.get_output_tensor(0).data)

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        return self.forward({seq: tokens})

    def step(self, feed: Mapping[int, int]) -> Logits:
        return self.forward({seq: [token] for seq, token in feed.items()})

    def rewind(self, seq: int, length: int) -> None:
        self._pool.rewind(self._open[seq], length)

    def fork(self, seq: int) -> int:
        return self._add(self._pool.fork(self._open[seq]))

    def free(self, seq: int) -> None:
        held = self._open.pop(seq, None)
        if held is not None:
            self._pool.free(held)

    def close(self) -> None:
        self._open.clear()
        self._caches = []
        self._request = None

    # ── one inference ───────────────────────────────────────────────────────────────────────────────────────────────

    def _add(self, held: Held) -> int:
        self._made += 1
        self._open[self._made] = held
        return self._made

    def _copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, target in pairs:
            for cache in self._caches:
                cache[target] = cache[source]

    def _infer(self, work: Sequence[tuple[Held, int]], every: Sequence[bool]) -> None:
        """Compute the tokens of each sequence behind its first so many."""
        import numpy as np
        import openvino

        news = [len(held.tokens) - past for held, past in work]
        begins = np.cumsum([0, *news])
        wanted = [
            np.arange(begin, begin + new) if all_of_it else np.array([begin + new - 1])
            for begin, new, all_of_it in zip(begins, news, every, strict=False)
        ]
        inputs = {
            "input_ids": np.concatenate([np.asarray(held.tokens[past:], np.int64) for held, past in work]),
            "position_ids": np.concatenate([np.arange(past, len(held.tokens), dtype=np.int64) for held, past in work]),
            "past_lens": np.array([past for _, past in work], np.int32),
            "subsequence_begins": begins.astype(np.int32),
            "block_indices": np.array([block.index for held, _ in work for block in held.blocks], np.int32),
            "block_indices_begins": np.cumsum([0, *(len(held.blocks) for held, _ in work)]).astype(np.int32),
            "max_context_len": np.array(max(len(held.tokens) for held, _ in work), np.int32),
            WANTED: np.concatenate(wanted).astype(np.int64),
        }
        for name, array in inputs.items():
            self._request.set_tensor(name, openvino.Tensor(array))
        self._request.infer()


def _caches(compiled: Compiled, request: Any, blocks: int) -> list[Any]:
    """The pool's tensors, given to the request; as arrays, for copies. Memory is taken as blocks are first written."""
    import openvino

    arrays = []
    for port in compiled.model.inputs:
        if port.get_any_name().startswith(CACHES):
            tensor = openvino.Tensor(port.get_element_type(), openvino.Shape([blocks, *block_shape(port)]))
            request.set_tensor(port.get_any_name(), tensor)
            arrays.append(tensor.data)
    return arrays


class Rows:
    """Logits in OpenVINO's own memory, [rows, 1, vocab] in float32, valid until the next inference."""

    def __init__(self, data: Any) -> None:
        self._rows = data.reshape(-1, data.shape[-1])

    def argmax(self) -> tuple[list[int], list[bool]]:
        import numpy as np

        ids = self._rows.argmax(axis=1)  # NaN counts as the greatest
        return ids.tolist(), np.isfinite(self._rows[np.arange(len(ids)), ids]).tolist()

    def row(self, i: int) -> Any:
        return self._rows[i].copy()
