"""The StepEngine over a transformers model: what is computed in which pass, and what becomes of ended sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import accumulate
from typing import Any

from llmctl.domain import Identity, Logits, Tokenizer
from llmctl.engines import torch_embed_causal, torch_load
from llmctl.engines.jobs import as_error
from llmctl.engines.tasks import Work
from llmctl.engines.torch_attention import Flat, Pass
from llmctl.engines.torch_cache import LEAST_TOKENS, KVCache, OutOfRoom, doubled
from llmctl.engines.torch_decide import Decider
from llmctl.engines.torch_graphs import Graphs
from llmctl.engines.torch_logits import TorchLogits
from llmctl.engines.torch_lora import Adapters
from llmctl.engines.torch_prefixes import LEAST, Prefixes, Text, spent
from llmctl.errors import DoesNotFit, RequestError


class TorchEngine:
    """The StepEngine over a transformers model loaded with the attention of `torch_attention`."""

    mixes = False

    def __init__(self, model: Any, tokenizer: Tokenizer, identity: Identity, adapters: Adapters) -> None:
        self.identity = identity
        self.tokenizer: Tokenizer = tokenizer
        self.prefill_chunk = 256 if identity.device == "cpu" else 2048
        self._model, self._adapters = model, adapters
        self._cache = KVCache(drop=self._drop)
        self._prefixes = Prefixes()
        self._graphs = Graphs(model, self._cache) if identity.device == "cuda" else None
        self._decider = Decider(self, model)
        self._next = 0

    def limit(self, most: int | None) -> None:
        """Bound the bytes of keys and values; None: those of all sequences that may run at once, each full."""
        rows, tokens = doubled(1, self.identity.parallel, 1), doubled(LEAST_TOKENS, self.identity.context, 1)
        least = self._cache.token_bytes * min(LEAST_TOKENS, self.identity.context)
        if most is not None and most < least:
            raise DoesNotFit(
                f"{self.identity.model}: {least:,} bytes hold {LEAST_TOKENS} tokens' keys and values, and {most:,} are "
                "allowed",
                hint="raise cache_bytes in this model's entry",
                details={"needed": least, "budget": most},
            )
        self._cache.most = self._cache.token_bytes * rows * tokens if most is None else most

    def open(self, *, adapter: str | None = None, seen: Any = None) -> int:
        if adapter is not None and adapter not in self._adapters.names:
            raise RequestError(f"no adapter {adapter!r} is loaded", status=404, param="adapter")
        return self._add(Text(adapter))

    def reuse(self, seq: int, prompt: Sequence[int]) -> int:
        import torch

        text = self._prefixes.texts[seq]
        with torch.inference_mode():
            for source, same in self._prefixes.longest(text.adapter, prompt):
                if self._cache.finite(source, same) and self._share(source, seq, same):
                    text.tokens = list(prompt[:same])
                    return same
        return 0

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        return self.forward({seq: tokens})

    def prefill_all(self, seq: int, tokens: Sequence[int]) -> Any:
        """`prefill`, with the logits after each of the tokens: float32, [tokens, vocab]."""
        return self.forward({seq: tokens}, {seq}).all()

    def step(self, feed: Mapping[int, int]) -> Logits:
        return self.forward({seq: [token] for seq, token in feed.items()})

    def forward(self, feed: Mapping[int, Sequence[int]], every: Set[int] = frozenset()) -> TorchLogits:
        """As the protocol says; where memory runs out OutOfRoom, and the sequences are as they were."""
        import torch

        counts = {seq: len(tokens) for seq, tokens in feed.items()}
        while True:
            with torch.inference_mode():
                self._cache.extend(counts)
                try:
                    logits = self._compute(feed, every)
                    break
                except Exception as error:
                    self._cache.undo(counts)
                    if as_error(error).code != "out_of_memory":
                        raise
                    if not self._drop():
                        raise OutOfRoom(f"the device is out of memory: {error}") from error
            torch_load.release(self.identity.device)
        for seq, tokens in feed.items():
            self._prefixes.texts[seq].tokens += tokens
        return logits

    def rewind(self, seq: int, length: int) -> None:
        import torch

        with torch.inference_mode():
            self._cache.cut(seq, length)
        del self._prefixes.texts[seq].tokens[length:]

    def fork(self, seq: int) -> int:
        import torch

        text = self._prefixes.texts[seq]
        with torch.inference_mode():
            self._cache.copy(seq, self._next + 1, len(text.tokens))
        return self._add(Text(text.adapter, list(text.tokens)))

    def free(self, seq: int) -> None:
        if seq in self._cache and len(self._prefixes.texts[seq].tokens) >= LEAST:
            for needless in self._prefixes.keep(seq):
                self._end(needless)
        else:
            self._end(seq)

    def embed(self, inputs: Sequence[str | Sequence[int]], pooling: str | None = None) -> Work:
        return torch_embed_causal.embed(self, self._model, inputs, pooling)

    def decide(self, **request: Any) -> Work:
        return self._decider.decide(**request)

    def close(self) -> None:
        self._cache, self._prefixes, self._graphs = KVCache(), Prefixes(), None
        self._model = None

    def _add(self, text: Text) -> int:
        self._next += 1
        self._prefixes.texts[self._next] = text
        return self._next

    def _end(self, seq: int) -> None:
        """Forget a sequence, and what it holds."""
        import torch

        self._prefixes.forget(seq)
        if seq in self._cache:
            with torch.inference_mode():
                self._cache.remove(seq)
            if not self._cache.bytes:
                torch_load.release(self.identity.device)

    def _drop(self) -> bool:
        """End the oldest kept sequence."""
        oldest = next(iter(self._prefixes.kept), None)
        if oldest is None:
            return False
        self._end(oldest)
        return True

    def _share(self, source: int, seq: int, same: int) -> bool:
        """Give a new sequence the first tokens of another: its row when nobody misses that, else a copy."""
        ended = self._prefixes.hold(source)
        if not ended or not spent(self._prefixes.texts[source].tokens, same):
            try:
                self._cache.copy(source, seq, same)
            except Exception as error:  # then the row itself, which needs no memory
                if as_error(error).code != "out_of_memory":
                    raise
                if not ended:
                    return False
            else:
                if ended:
                    self._prefixes.kept[source] = None
                return True
        self._cache.rename(source, seq)
        self._cache.cut(seq, same)
        self._prefixes.forget(source)
        return True

    def _compute(self, feed: Mapping[int, Sequence[int]], every: Set[int]) -> TorchLogits:
        """Run tokens that the cache has counted: single ones as consecutive rows, longer runs one after another."""
        import torch

        cache, single = self._cache, [seq for seq, tokens in feed.items() if len(tokens) == 1]
        single = cache.arrange(single) if len(single) > 1 or self._graphs else single
        runs = [seq for seq, tokens in feed.items() if len(tokens) > 1]
        order = [*single, *runs]
        passes = [
            Pass(cache, cache.row(some[0]), [cache.length(seq) - len(feed[seq]) for seq in some], len(feed[some[0]]))
            for some in [single, *([seq] for seq in runs)] if some
        ]  # fmt: skip
        ends = dict(zip(order, accumulate(len(feed[seq]) for seq in order), strict=True))
        rows = [
            row for seq, tokens in feed.items()
            for row in range(ends[seq] - (len(tokens) if seq in every else 1), ends[seq])
        ]  # fmt: skip
        if self._graphs and not runs and not any(self._prefixes.texts[seq].adapter for seq in single):
            logits = self._graphs.step([feed[seq][0] for seq in single], passes[0].past)
            if logits is not None:
                return TorchLogits(logits, rows)
        shape = (1, -1) if runs else (-1, 1)
        device = self._model.device
        past = [range(cache.length(seq) - len(feed[seq]), cache.length(seq)) for seq in order]
        with self._adapters.chosen([(self._prefixes.texts[seq].adapter, len(feed[seq])) for seq in order]):
            output = self._model(
                input_ids=torch.tensor([token for seq in order for token in feed[seq]], device=device).view(shape),
                position_ids=torch.tensor([place for places in past for place in places], device=device).view(shape),
                use_cache=False,
                logits_to_keep=torch.tensor(rows, device=device) if runs else 1,
                forward=passes[0] if len(passes) == 1 else Flat(passes),
            )
        if runs:
            return TorchLogits(output.logits[0], range(len(rows)))
        return TorchLogits(output.logits[:, 0], rows)
