"""The MLX engine: mlx-lm's models, their sequences in one batch, on Metal and on MLX's CPU build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from llmctl.domain import IMAGE, TEXT, Emit, Engine, EngineSpec, Identity, Progress, StepEngine, Tokenizer
from llmctl.engines import mlx_adapters, mlx_caches, mlx_load, mlx_memory, mlx_vision
from llmctl.engines.batch import BatchEngine
from llmctl.engines.checkpoint import Checkpoint, read_ahead, read_checkpoint
from llmctl.engines.checkpoint_checks import speaks, whole
from llmctl.engines.drafts import drafter
from llmctl.engines.mlx_proof import prove, running
from llmctl.engines.mlx_steps import MlxEngine, RewindingEngine, Room
from llmctl.engines.processor_pictures import Pictures
from llmctl.engines.talk import Talk, words
from llmctl.engines.tokenizer import load_tokenizer
from llmctl.engines.vision_tokenizer import load_chat_tokenizer, speaking
from llmctl.errors import Unsupported

BATCH, ONE_BY_ONE = "batch", "one-by-one"
"""How the sequences of a step are computed: in one pass, or, where that was not proven right, each in its own."""

DTYPES = ("float32", "bfloat16", "float16")


def check(spec: EngineSpec) -> None:
    """Unsupported, by name, when mlx-lm has no module for the model type; no weights are read."""
    checkpoint = read_checkpoint(spec)
    if mlx_vision.takes_images(checkpoint):
        asked = {"adapters": spec.adapters, "draft": spec.draft, "cache_bits": spec.cache_bits}
        if wrong := [name for name, value in asked.items() if value]:
            raise Unsupported(f"{spec.model}: the mlx engine has {' and '.join(wrong)} for models of text only")
        return
    try:
        from mlx_lm.utils import MODEL_REMAPPING
    except ImportError as error:
        why = f"{spec.model}: the mlx engine's library cannot be imported here: {error}"
        raise Unsupported(why, hint="pip install 'llmctl-fleet[mlx]'") from error
    if checkpoint.config.get("model_file"):  # read_checkpoint refused it unless code is allowed
        return
    name = mlx_load.model_type(checkpoint)
    known = MODEL_REMAPPING.get(name, name)
    if not known.isidentifier() or find_spec(f"mlx_lm.models.{known}") is None:
        raise Unsupported(f"{spec.model}: architecture {checkpoint.architecture!r} is not supported by the mlx engine")


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Engine:
    """Load the checkpoint of `spec` and batch over it."""
    steps = load_steps(spec, progress)
    small = partial(load_steps, progress=progress, rewinds=True)
    return BatchEngine(steps, emit, draft=drafter(spec, small, steps.identity.vocab))


def load_steps(
    spec: EngineSpec, progress: Progress, tokenizer: Tokenizer | None = None, *, rewinds: bool = False
) -> StepEngine:
    """The StepEngine alone; `tokenizer` in place of the checkpoint's own, of one that takes no images.

    `rewinds`: any number of tokens can be taken back at any time, as from a draft.
    """
    import mlx.core as mx

    check(spec)
    checkpoint = read_checkpoint(spec)
    if spec.dtype and spec.dtype not in DTYPES:
        raise Unsupported(f"no dtype {spec.dtype!r}", hint=f"one of {', '.join(DTYPES)}")
    if spec.device == "cpu":
        mx.set_default_device(mx.cpu)
    mlx_memory.bound(mx)
    if mlx_vision.takes_images(checkpoint):
        return seeing(spec, checkpoint, progress)
    mlx_load.sane(spec, checkpoint)
    whole(spec, checkpoint)
    tokenizer = tokenizer or load_tokenizer(checkpoint.path, allow_code=spec.allow_code, talk=Talk.of(spec))
    read_ahead(checkpoint.weights, progress)
    model, found = mlx_load.whole(spec, lambda: mlx_load.read_model(spec, checkpoint))
    config = {**found, **(found.get("text_config") or {})}
    progress("weights", checkpoint.bytes, checkpoint.bytes)
    speaks(spec, tokenizer, config.get("vocab_size") or tokenizer.vocab)
    return engine(spec, checkpoint, model, config, tokenizer, rewinds=rewinds)


def engine(
    spec: EngineSpec,
    checkpoint: Checkpoint,
    model: Any,
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    rewinds: bool = False,
) -> MlxEngine:
    """The StepEngine over a loaded model of text, proven."""
    window = None if rewinds else mlx_load.window(config)
    fresh = partial(mlx_caches.fresh, model, window, whole=rewinds)
    with running(spec, checkpoint):
        used = mlx_caches.used(model, fresh())
        if spec.cache_bits:
            fresh = partial(mlx_caches.copies, mlx_caches.quantized(fresh(), used, spec.cache_bits))
            used = mlx_caches.used(model, fresh())
    windowed = any(hasattr(cache, "max_size") for cache in mlx_caches.fresh(model, window))
    identity = identify(spec, checkpoint, model, config, tokenizer, windowed=windowed)
    models = mlx_adapters.with_adapters(model, spec.adapters)
    size = mlx_adapters.bytes_of(models)
    identity = replace(identity, adapters=tuple(spec.adapters), memory_bytes=size, residency={identity.device: size})
    together = mlx_caches.joinable(fresh())
    kind = RewindingEngine if together else MlxEngine
    made = kind(models, tokenizer, identity, fresh, room(spec, identity, used), together=together)
    with running(spec, checkpoint):
        prove(made)
    made.identity = replace(identity, load_path=BATCH if made.together else ONE_BY_ONE)
    return made


def seeing(spec: EngineSpec, checkpoint: Checkpoint, progress: Progress) -> MlxEngine:
    """The StepEngine of an image-text checkpoint, proven with text."""
    read_ahead(checkpoint.weights, progress)
    model, processor = mlx_load.whole(spec, lambda: mlx_vision.load_model(spec, checkpoint))
    progress("weights", checkpoint.bytes, checkpoint.bytes)
    own = load_chat_tokenizer(spec, checkpoint, processor)
    config = {**checkpoint.config, **(checkpoint.config.get("text_config") or {})}
    identity = replace(
        identify(spec, checkpoint, model, config, own), inputs=(TEXT, IMAGE), load_path=mlx_vision.LOAD_PATH
    )
    tokenizer = speaking(own)
    pictures = Pictures(processor, tokenizer, identity, tensors="np")
    fresh = partial(mlx_caches.fresh, model.language_model)
    with running(spec, checkpoint):
        used = mlx_caches.used(lambda ids, cache: model.language_model(ids, cache=cache).logits, fresh())
        limit = room(spec, identity, used)
        together = mlx_caches.joinable(used)
        made = mlx_vision.MlxVisionEngine(model, pictures, tokenizer, identity, fresh, limit, together=together)
        prove(made)
    return made


def room(spec: EngineSpec, identity: Identity, used: mlx_caches.Caches) -> Room:
    """The memory for keys and values: `cache_bytes`, else what all sequences need at their longest."""
    token = mlx_caches.token_bytes(used)
    whole = token * identity.context * identity.parallel
    return Room(spec.cache_bytes or whole, token, strict=spec.cache_bytes is not None)


def identify(
    spec: EngineSpec,
    checkpoint: Checkpoint,
    model: Any,
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    windowed: bool = False,
) -> Identity:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    weights: list[Any] = [pair[1] for pair in tree_flatten(model.parameters())]
    quantized = config.get("quantization") or {}
    stored = str(max(weights, key=lambda array: array.nbytes).dtype).removeprefix("mlx.core.")
    device = "cpu" if mx.default_device() == mx.cpu else "metal" if mx.metal.is_available() else "gpu"
    size = sum(array.nbytes for array in weights)
    return Identity(
        model=spec.model,
        engine="mlx",
        architecture=checkpoint.architecture,
        context=mlx_load.usable_context(spec, config, windowed=windowed),
        vocab=config.get("vocab_size") or tokenizer.vocab,
        parallel=spec.parallel,
        device=device,
        dtype=f"{quantized['bits']}-bit" if "bits" in quantized else stored,
        chat=tokenizer.chats,
        memory_bytes=size,
        capabilities=("fork", "logprobs", "logit_bias", "mask", "seed", "prefix_cache", *words(tokenizer)),
        residency={device: size},
    )
