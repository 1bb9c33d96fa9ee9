"""The torch engine: any plain-attention transformers checkpoint in safetensors, on CUDA, Metal or CPU.

The model's layers are transformers' own; the batch, the KV cache and the attention over it are ours, so that sequences
of any length join and leave between two steps and batch 1 is as fast as `generate()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.domain import DECIDE, Emit, Engine, EngineSpec, Identity, Logits, Progress, Tokenizer
from llmctl.engines import torch_embed, torch_embed_causal, torch_load, torch_vision, torch_vision_load
from llmctl.engines.batch import BatchEngine
from llmctl.engines.checkpoint import Checkpoint, read_checkpoint
from llmctl.engines.talk import Talk, words
from llmctl.engines.tasks import POOLED, Work
from llmctl.engines.tokenizer import load_tokenizer
from llmctl.engines.torch_attention import Pass
from llmctl.engines.torch_cache import KVCache
from llmctl.engines.torch_decide import Decider
from llmctl.engines.torch_logits import TorchLogits
from llmctl.engines.torch_proof import prove
from llmctl.errors import RequestError, Unsupported

LOAD_PATH = "causal-lm"


def check(spec: EngineSpec) -> None:
    """Unsupported, by name, before any weights are read."""
    if torch_embed.embeds(spec):
        torch_embed.check(spec)
    else:
        way(spec, read_checkpoint(spec))


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Engine:
    """Load the checkpoint of `spec` and batch over it; one that embeds has an engine of its own."""
    if torch_embed.embeds(spec):
        return torch_embed.load(spec, progress, emit)
    if way(spec, read_checkpoint(spec)) == torch_vision.LOAD_PATH:
        return BatchEngine(torch_vision.load_steps(spec, progress), emit)
    return BatchEngine(load_steps(spec, progress), emit)


def way(spec: EngineSpec, checkpoint: Checkpoint) -> str:
    """How to load it: as a causal language model, else as an image-text one; Unsupported says why not the first."""
    try:
        torch_load.model_class(spec, checkpoint)
    except Unsupported:
        if torch_vision_load.model_class(spec, checkpoint) is None:
            raise
        return torch_vision.LOAD_PATH
    return LOAD_PATH


def load_steps(spec: EngineSpec, progress: Progress, tokenizer: Tokenizer | None = None) -> TorchEngine:
    """The StepEngine alone; `tokenizer` in place of the checkpoint's own."""
    checkpoint = read_checkpoint(spec)
    tokenizer = tokenizer or load_tokenizer(checkpoint.path, allow_code=spec.allow_code, talk=Talk.of(spec))
    model, config = torch_load.load_model(spec, checkpoint, progress)
    identity = Identity(
        model=spec.model,
        engine="torch",
        architecture=checkpoint.architecture,
        context=torch_load.usable_context(spec.context, config),
        vocab=config.vocab_size,
        parallel=spec.parallel,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        chat=tokenizer.chats,
        memory_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        capabilities=("fork", "logprobs", "logit_bias", "mask", "seed", *words(tokenizer), POOLED, DECIDE),
        load_path=LOAD_PATH,
    )
    engine = TorchEngine(model, tokenizer, identity)
    prove(engine, model)
    return engine


class TorchEngine:
    """The StepEngine over a transformers model loaded with the attention of `torch_attention`."""

    def __init__(self, model: Any, tokenizer: Tokenizer, identity: Identity) -> None:
        self.identity = identity
        self.tokenizer: Tokenizer = tokenizer
        self.prefill_chunk = 256 if identity.device == "cpu" else 2048
        self._model = model
        self._cache = KVCache()
        self._decider = Decider(self, model)
        self._next = 0

    def open(self, *, adapter: str | None = None, seen: Any = None) -> int:
        if adapter is not None:
            raise RequestError(f"no adapter {adapter!r} is loaded", status=404, param="adapter")
        self._next += 1
        return self._next

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        if seq not in self._cache:
            self._cache.add(seq)
        return TorchLogits(self._forward([list(tokens)], [seq], self._cache.row(seq))[:, -1])

    def prefill_all(self, seq: int, tokens: Sequence[int]) -> Any:
        """`prefill`, with the logits after each of the tokens: float32, [tokens, vocab]."""
        if seq not in self._cache:
            self._cache.add(seq)
        return self._forward([list(tokens)], [seq], self._cache.row(seq), keep=len(tokens))[0].float().cpu().numpy()

    def step(self, feed: Mapping[int, int]) -> Logits:
        import torch

        with torch.inference_mode():
            order = self._cache.arrange(list(feed))
        rows = {seq: row for row, seq in enumerate(order)}
        logits = self._forward([[feed[seq]] for seq in order], order, 0)
        return TorchLogits(logits[:, -1], [rows[seq] for seq in feed])

    def fork(self, seq: int) -> int:
        import torch

        self._next += 1
        with torch.inference_mode():
            self._cache.copy(seq, self._next)
        return self._next

    def free(self, seq: int) -> None:
        import torch

        if seq in self._cache:
            with torch.inference_mode():
                self._cache.remove(seq)
            if not self._cache.bytes:
                torch_load.release(self.identity.device)

    def embed(self, inputs: Sequence[str | Sequence[int]], pooling: str | None = None) -> Work:
        return torch_embed_causal.embed(self, self._model, inputs, pooling)

    def decide(self, **request: Any) -> Work:
        return self._decider.decide(**request)

    def close(self) -> None:
        self._cache = KVCache()
        self._model = None

    def _forward(self, tokens: list[list[int]], seqs: list[int], first: int, *, keep: int = 1) -> Any:
        """Run equally many new tokens of sequences in consecutive rows; the last `keep` positions' logits."""
        import torch

        past, new = [self._cache.length(seq) for seq in seqs], len(tokens[0])
        self._cache.extend(seqs, new)
        device = self._model.device
        with torch.inference_mode():
            positions = torch.tensor(past, device=device)[:, None] + torch.arange(new, device=device)
            output = self._model(
                input_ids=torch.tensor(tokens, device=device),
                position_ids=positions,
                use_cache=False,
                logits_to_keep=keep,
                forward=Pass(self._cache, first, past, new),
            )
        return output.logits
