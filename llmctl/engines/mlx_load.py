"""An mlx-lm model of a checkpoint that was written for transformers: its configuration, weights and windows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from llmctl.domain import EngineSpec
from llmctl.engines import mlx_models
from llmctl.engines.checkpoint import Checkpoint
from llmctl.engines.checkpoint_checks import VERIFY, read_config
from llmctl.engines.jobs import reason
from llmctl.errors import LlmctlError, LoadFailed, Unsupported

FULL, SLIDING = "full_attention", "sliding_attention"
UNIFORM = ("mistral", "phi3", "starcoder2", "mixtral")
"""All layers of these attend to `sliding_window` tokens, where it is set; mlx-lm lets them attend to all."""


def model_type(checkpoint: Checkpoint) -> str:
    """mlx-lm's module names are lower case."""
    return checkpoint.architecture.lower().removesuffix("forcausallm")


def sane(spec: EngineSpec, checkpoint: Checkpoint) -> None:
    """Unsupported for a configuration that makes no sense to transformers, of a model that it knows."""
    from transformers import CONFIG_MAPPING

    name = model_type(checkpoint)
    if name in CONFIG_MAPPING:
        read_config(spec, checkpoint, CONFIG_MAPPING[name], name)


def read_model(spec: EngineSpec, checkpoint: Checkpoint) -> tuple[Any, Mapping[str, Any]]:
    """mlx-lm's model, its weights not read yet, and its whole configuration."""
    from mlx_lm.utils import load_model

    changes: dict[str, Any] = {"model_type": model_type(checkpoint)}
    changes |= filled({**checkpoint.config, **changes})
    if isinstance(text := {**checkpoint.config, **changes}.get("text_config"), Mapping):
        changes["text_config"] = {**text, **filled(text)}
    model, config = load_model(
        checkpoint.path,
        lazy=True,
        model_config=changes,
        get_model_classes=mlx_models.classes,
        trust_remote_code=spec.allow_code,
    )
    if spec.spread:
        from llmctl.engines import mlx_spread  # it needs `model_type`

        mlx_spread.shard(model)
    return model, config


def whole(spec: EngineSpec, read: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    """What `read` gives, a model first: its weights in the wanted type and in memory; LoadFailed for what it raises."""
    import mlx.core as mx

    try:
        model, beside = read()
        if spec.dtype:
            model.set_dtype(getattr(mx, spec.dtype))
        mx.eval(model.parameters())
    except LlmctlError:
        raise
    except Exception as error:
        raise LoadFailed(f"{spec.model}: {reason(error)}"[:500], hint=VERIFY) from error
    return model, beside


def window(config: Mapping[str, Any]) -> int | None:
    """How many tokens every layer attends to, where that is the same for all and fewer than all."""
    kinds = set(config.get("layer_types") or ())
    if not config.get("sliding_window") or kinds - {SLIDING}:
        return None
    return int(config["sliding_window"]) if kinds or config["model_type"] in UNIFORM else None


def usable_context(spec: EngineSpec, config: Mapping[str, Any], *, windowed: bool) -> int:
    """The longest context that the model is computed right for, at most the one asked for.

    `windowed`: its caches keep to its windows. Where they do not, it is right up to the window only.
    """
    limits: list[int | None] = [config.get("max_position_embeddings")]
    slides = SLIDING in (config.get("layer_types") or ()) or window(config) is not None
    if slides and not windowed:
        limits.append(config.get("sliding_window"))
    return min([spec.context, *(limit for limit in limits if limit)])


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
    if "num_local_experts" in whole:
        whole.setdefault("num_experts", whole["num_local_experts"])
    if whole.get("model_type") == "gemma3_text" and whole.get("layer_types"):
        whole |= _gemma3_layers(whole)
    return {key: value for key, value in whole.items() if key not in config or value != config[key]}


def _gemma3_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Which layers of a gemma3 slide, as mlx-lm wants it: every so many layers one does not.

    With fewer layers than that all slide; as mlx-lm then looks for one that is not there, it is told that none slides,
    and that all turn as the sliding ones do. Their window is then that of their caches (`window`).
    """
    kinds = list(config["layer_types"])
    if FULL not in kinds:
        return {"sliding_window_pattern": 1, "rope_theta": config["rope_local_base_freq"], "rope_scaling": None}
    every = kinds.index(FULL) + 1
    if kinds != [SLIDING if (layer + 1) % every else FULL for layer in range(len(kinds))]:
        raise Unsupported("gemma3 on mlx: its sliding layers follow no pattern")
    return {"sliding_window_pattern": every}
