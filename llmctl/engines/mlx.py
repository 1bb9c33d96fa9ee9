"""The MLX engine: mlx-lm's models and caches, plainly. Sequences of one step run one after another.

Each sequence has a cache of its own, of whatever kind its model wants, so every architecture of mlx-lm works and no
sequence can touch another; a fork copies the cache.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from llmctl.domain import Emit, Engine, EngineSpec, Identity, Logits, Progress, StepEngine, Tokenizer
from llmctl.engines import mlx_vision
from llmctl.engines.batch import BatchEngine
from llmctl.engines.checkpoint import Checkpoint, read_ahead, read_checkpoint
from llmctl.engines.mlx_logits import MlxLogits
from llmctl.engines.talk import Talk, words
from llmctl.engines.tokenizer import load_tokenizer
from llmctl.engines.vision_tokenizer import load_chat_tokenizer
from llmctl.errors import LoadFailed, RequestError, Unsupported

DTYPES = ("float32", "bfloat16", "float16")
WINDOW_IGNORED = ("mistral",)  # mlx-lm computes full attention here: right only up to the window


def check(spec: EngineSpec) -> None:
    """Unsupported, by name, when mlx-lm has no module for the model type; no weights are read."""
    checkpoint = read_checkpoint(spec)
    if mlx_vision.takes_images(checkpoint):
        return
    try:
        from mlx_lm.utils import MODEL_REMAPPING
    except ImportError as error:
        raise Unsupported(f"{spec.model}: mlx-lm cannot be imported here: {error}") from error
    if checkpoint.config.get("model_file"):  # read_checkpoint refused it unless code is allowed
        return
    name = model_type(checkpoint)
    known = MODEL_REMAPPING.get(name, name)
    if not known.isidentifier() or find_spec(f"mlx_lm.models.{known}") is None:
        raise Unsupported(f"{spec.model}: architecture {checkpoint.architecture!r} is not supported by the mlx engine")


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Engine:
    """Load the checkpoint of `spec` and batch over it."""
    return BatchEngine(load_steps(spec, progress), emit)


def load_steps(spec: EngineSpec, progress: Progress, tokenizer: Tokenizer | None = None) -> StepEngine:
    """The StepEngine alone; `tokenizer` in place of the checkpoint's own, of one that takes no images."""
    import mlx.core as mx

    check(spec)
    checkpoint = read_checkpoint(spec)
    if spec.dtype and spec.dtype not in DTYPES:
        raise Unsupported(f"no dtype {spec.dtype!r}", hint=f"one of {', '.join(DTYPES)}")
    if spec.device == "cpu":
        mx.set_default_device(mx.cpu)
    if mlx_vision.takes_images(checkpoint):
        read_ahead(checkpoint.weights, progress)
        model, processor = _whole(spec, lambda: mlx_vision.load_model(spec, checkpoint))
        progress("weights", checkpoint.bytes, checkpoint.bytes)
        own = load_chat_tokenizer(spec, checkpoint, processor)
        identity = _identify(spec, checkpoint, model, checkpoint.config, own)
        return mlx_vision.engine(model, own, processor, identity)
    tokenizer = tokenizer or load_tokenizer(checkpoint.path, allow_code=spec.allow_code, talk=Talk.of(spec))
    read_ahead(checkpoint.weights, progress)
    model, config = _whole(spec, lambda: _text_model(spec, checkpoint))
    progress("weights", checkpoint.bytes, checkpoint.bytes)
    return MlxEngine(model, tokenizer, _identify(spec, checkpoint, model, config, tokenizer))


def _whole(spec: EngineSpec, read: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    """What `read` gives, a model first: its weights in the wanted type and in memory; LoadFailed for what it raises."""
    import mlx.core as mx

    try:
        model, beside = read()
        if spec.dtype:
            model.set_dtype(getattr(mx, spec.dtype))
        mx.eval(model.parameters())
    except Unsupported:
        raise
    except Exception as error:
        raise LoadFailed(f"{spec.model}: {error}", hint="verify its files with `llmctl models verify`") from error
    return model, beside


def _text_model(spec: EngineSpec, checkpoint: Checkpoint) -> tuple[Any, Mapping[str, Any]]:
    """mlx-lm's model and its configuration."""
    from mlx_lm.utils import load_model

    changes = {"model_type": model_type(checkpoint)}
    changes |= filled({**checkpoint.config, **changes})
    model, config = load_model(checkpoint.path, model_config=changes, trust_remote_code=spec.allow_code)
    return model, config


def _identify(
    spec: EngineSpec, checkpoint: Checkpoint, model: Any, config: Mapping[str, Any], tokenizer: Tokenizer
) -> Identity:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    weights: list[Any] = [pair[1] for pair in tree_flatten(model.parameters())]
    text = {**config, **(config.get("text_config") or {})}
    quantized = config.get("quantization") or {}
    stored = str(max(weights, key=lambda array: array.nbytes).dtype).removeprefix("mlx.core.")
    return Identity(
        model=spec.model,
        engine="mlx",
        architecture=checkpoint.architecture,
        context=usable_context(spec, checkpoint, text),
        vocab=text.get("vocab_size") or tokenizer.vocab,
        parallel=spec.parallel,
        device="cpu" if mx.default_device() == mx.cpu else "metal" if mx.metal.is_available() else "gpu",
        dtype=f"{quantized['bits']}-bit" if "bits" in quantized else stored,
        chat=tokenizer.chats,
        memory_bytes=sum(array.nbytes for array in weights),
        capabilities=("fork", "logprobs", "logit_bias", "mask", "seed", *words(tokenizer)),
    )


def usable_context(spec: EngineSpec, checkpoint: Checkpoint, config: Mapping[str, Any]) -> int:
    """The longest context that mlx-lm computes right for this model, at most the one asked for."""
    limits: list[int | None] = [config.get("max_position_embeddings")]
    if model_type(checkpoint) in WINDOW_IGNORED:
        limits.append(config.get("sliding_window"))
    return min([spec.context, *(limit for limit in limits if limit)])


def model_type(checkpoint: Checkpoint) -> str:
    """mlx-lm's module names are lower case."""
    return checkpoint.architecture.lower().removesuffix("forcausallm")


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json leaves to transformers' defaults, and its rotary fields under the names mlx-lm reads.

    A checkpoint's configuration is written for transformers. mlx-lm's own defaults differ, and most of its models do
    not know the `rope_parameters` of transformers 5: qwen2 and phi then compute something else, without an error.
    """
    from transformers import CONFIG_MAPPING

    whole = dict(config)
    if config.get("model_type") in CONFIG_MAPPING:
        with contextlib.suppress(Exception):  # mlx-lm may know what transformers does not
            defaults = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)).to_dict()
            whole = {**{key: value for key, value in defaults.items() if value is not None}, **config}
    rope = whole.get("rope_parameters") or {}
    local = rope.get("sliding_attention") or {}
    rope = rope.get("full_attention", rope)
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in rope:
            whole.setdefault(key, rope[key])
    if rope.get("rope_type", "default") != "default":
        whole.setdefault("rope_scaling", {**rope, "type": rope["rope_type"]})
    if "rope_theta" in local:
        whole.setdefault("rope_local_base_freq", local["rope_theta"])
    return {key: value for key, value in whole.items() if key not in config}


class MlxEngine:
    """The StepEngine over an mlx-lm model."""

    def __init__(self, model: Any, tokenizer: Tokenizer, identity: Identity) -> None:
        self.identity = identity
        self.tokenizer: Tokenizer = tokenizer
        self.prefill_chunk = 64 if identity.device == "cpu" else 512
        self._model = model
        self._caches: dict[int, list[Any]] = {}
        self._next = 0

    def open(self, *, adapter: str | None = None, seen: Any = None) -> int:
        from mlx_lm.models.cache import make_prompt_cache

        if adapter is not None:
            raise RequestError(f"no adapter {adapter!r} is loaded", status=404, param="adapter")
        self._next += 1
        self._caches[self._next] = make_prompt_cache(self._model)
        return self._next

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        return MlxLogits([self._forward(seq, list(tokens))[:, -1]])

    def prefill_all(self, seq: int, tokens: Sequence[int]) -> Any:
        """`prefill`, with the logits after each of the tokens: float32, [tokens, vocab]."""
        import mlx.core as mx
        import numpy

        return numpy.array(self._forward(seq, list(tokens))[0].astype(mx.float32))

    def step(self, feed: Mapping[int, int]) -> Logits:
        return MlxLogits([self._forward(seq, [token])[:, -1] for seq, token in feed.items()])

    def fork(self, seq: int) -> int:
        self._next += 1
        self._caches[self._next] = copy.deepcopy(self._caches[seq])
        return self._next

    def free(self, seq: int) -> None:
        import mlx.core as mx

        self._caches.pop(seq, None)
        if not self._caches:
            mx.clear_cache()

    def close(self) -> None:
        self._caches.clear()
        self._model = None

    def _forward(self, seq: int, tokens: list[int]) -> Any:
        """Every position's logits, shape [1, tokens, vocab]."""
        import mlx.core as mx

        return self._model(mx.array([tokens]), cache=self._caches[seq])
