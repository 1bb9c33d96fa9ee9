"""The torch engine: any plain-attention transformers checkpoint in safetensors, on CUDA, Metal or CPU.

The model's layers are transformers' own; the batch, the KV cache and the attention over it are ours, so that sequences
of any length join and leave between two steps and batch 1 is as fast as `generate()`.
"""

from __future__ import annotations

from llmctl.domain import DECIDE, Emit, Engine, EngineSpec, Identity, Progress, Tokenizer
from llmctl.engines import torch_embed, torch_load, torch_lora, torch_vision, torch_vision_load
from llmctl.engines.batch import BatchEngine
from llmctl.engines.checkpoint import Checkpoint, read_checkpoint
from llmctl.engines.checkpoint_checks import speaks
from llmctl.engines.drafts import drafter
from llmctl.engines.talk import Talk, words
from llmctl.engines.tasks import POOLED
from llmctl.engines.tokenizer import load_tokenizer
from llmctl.engines.torch_proof import prove
from llmctl.engines.torch_steps import TorchEngine
from llmctl.errors import Unsupported

LOAD_PATH = "causal-lm"


def check(spec: EngineSpec) -> None:
    """Unsupported, by name, before any weights are read."""
    if spec.cache_bits is not None:
        raise Unsupported(
            f"{spec.model}: the torch engine keeps keys and values in the model's own type",
            hint="take cache_bits out of this model's entry",
        )
    if torch_embed.embeds(spec):
        torch_embed.check(spec)
    elif way(spec, read_checkpoint(spec)) == LOAD_PATH:
        torch_lora.check(spec)
        return
    if spec.adapters:
        raise Unsupported(f"{spec.model}: the torch engine applies adapters to models of text that generate")
    if spec.draft is not None:
        raise Unsupported(f"{spec.model}: the torch engine takes drafts for models of text that generate")
    if spec.cache_bytes is not None:
        raise Unsupported(f"{spec.model}: the torch engine bounds the cache of models of text that generate")


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Engine:
    """Load the checkpoint of `spec` and batch over it; one that embeds has an engine of its own."""
    if torch_embed.embeds(spec):
        return torch_embed.load(spec, progress, emit)
    if way(spec, read_checkpoint(spec)) == torch_vision.LOAD_PATH:
        return BatchEngine(torch_vision.load_steps(spec, progress), emit)
    steps = load_steps(spec, progress)
    draft = drafter(spec, lambda small: load_steps(small, progress), steps.identity.vocab)
    return BatchEngine(steps, emit, draft=draft)


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
    loaded = torch_load.load_model(spec, checkpoint, progress)
    model, config = loaded.model, loaded.config
    speaks(spec, tokenizer, config.vocab_size)
    adapters = torch_lora.attach(spec, model)
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
        memory_bytes=loaded.bytes + adapters.bytes,
        capabilities=(
            "fork", "logprobs", "logit_bias", "mask", "seed", "prefix_cache", *words(tokenizer), POOLED, DECIDE,
        ),
        load_path=LOAD_PATH,
        adapters=adapters.names,
        residency=loaded.residency,
    )  # fmt: skip
    engine = TorchEngine(model, tokenizer, identity, adapters)
    prove(engine, model)
    engine.limit(spec.cache_bytes)
    return engine
