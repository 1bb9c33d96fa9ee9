"""mlx-lm's models where they do not do what transformers' do with the same files: weights, windows, scales.

Each is a subclass of mlx-lm's own, handed to its loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from llmctl.engines.mlx_yarn import exact_rope

FUSED = ("mixtral", "qwen2_moe", "qwen3_moe")
Weights = dict[str, Any]


def classes(config: Mapping[str, Any]) -> tuple[type[Any], type[Any]]:
    """The classes of a model and of its arguments, as mlx-lm's `load_model` asks for them."""
    from mlx_lm.utils import MODEL_REMAPPING

    name = MODEL_REMAPPING.get(config["model_type"], config["model_type"])
    module = import_module(f"mlx_lm.models.{name}")
    model = module.Model
    if name in FUSED:
        model = _separating(model)
    elif name == "gpt_oss":
        model = _own_gpt_oss(model)
    elif name == "gemma2" and config.get("layer_types"):
        model = _windowed_gemma2(module, config)
    elif name == "gemma3_text":
        model = _scaled_gemma3(model)
    return model, module.ModelArgs


def _separating(base: Any) -> Any:
    """Of experts that transformers 5 holds as one tensor, and writes so when it is told to."""

    class Model(base):  # type: ignore[misc]
        def sanitize(self, weights: Weights) -> Weights:
            weights = dict(weights)
            for key in [key for key in weights if key.endswith(".mlp.experts.gate_up_proj")]:
                stem = key.removesuffix("experts.gate_up_proj")
                own = stem.replace(".mlp.", ".block_sparse_moe.") if self.model_type == "mixtral" else stem
                both, down = weights.pop(key), weights.pop(f"{stem}experts.down_proj")
                half = both.shape[1] // 2
                weights[f"{own}gate.weight"] = weights.pop(f"{stem}gate.weight")
                weights[f"{own}switch_mlp.gate_proj.weight"] = both[:, :half]
                weights[f"{own}switch_mlp.up_proj.weight"] = both[:, half:]
                weights[f"{own}switch_mlp.down_proj.weight"] = down
            return dict(super().sanitize(weights))

    return Model


def _own_gpt_oss(base: Any) -> Any:
    """Of experts that are not in MXFP4: mlx-lm takes their tensors for packed blocks of the other layout. And of
    positions that are stretched as the checkpoint says."""

    class Model(base):  # type: ignore[misc]
        def __init__(self, args: Any) -> None:
            super().__init__(args)
            scaling = args.rope_scaling or {}
            if scaling.get("rope_type") == "yarn" and not scaling.get("truncate", True):
                for layer in self.model.layers:
                    layer.self_attn.rope = exact_rope(args.head_dim, args.rope_theta, scaling)

        def sanitize(self, weights: Weights) -> Weights:
            plain = (".experts.gate_up_proj", ".experts.down_proj")
            ours = {key: value for key, value in weights.items() if key.endswith(plain)}
            made = dict(super().sanitize({key: value for key, value in weights.items() if key not in ours}))
            for key, value in ours.items():
                across = value.swapaxes(1, 2)
                if key.endswith("down_proj"):
                    made[f"{key}.weight"] = across
                else:
                    stem = key.removesuffix("gate_up_proj")
                    made[f"{stem}gate_proj.weight"], made[f"{stem}up_proj.weight"] = across[:, ::2], across[:, 1::2]
            return made

    return Model


def _windowed_gemma2(module: Any, config: Mapping[str, Any]) -> Any:
    """mlx-lm makes one mask for all layers, without windows and of a shape that only fits one sequence."""
    kinds, size = config["layer_types"], config["sliding_window"]

    class Block(module.TransformerBlock):  # type: ignore[misc]
        def __init__(self, args: Any, window: int | None) -> None:
            super().__init__(args)
            self.window = window

        def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
            from mlx_lm.models.base import create_attention_mask

            mask = create_attention_mask(x, cache, window_size=self.window, return_array=True)
            if mask is not None and mask.ndim == 4 and self.self_attn.repeats > 1:
                mask = mask[:, :, None]
            return super().__call__(x, mask, cache)

    class Model(module.Model):  # type: ignore[misc]
        def __init__(self, args: Any) -> None:
            super().__init__(args)
            self.model.layers = [Block(args, size if kind == "sliding_attention" else None) for kind in kinds]

        def make_cache(self) -> list[Any]:
            from mlx_lm.models.cache import KVCache, RotatingKVCache

            plain: Any = KVCache
            windowed: Any = RotatingKVCache
            return [plain() if layer.window is None else windowed(max_size=layer.window) for layer in self.layers]

    return Model


def _scaled_gemma3(base: Any) -> Any:
    """In float32 transformers scales embeddings by the root of their width, mlx-lm by that root rounded to bfloat16."""

    class Model(base):  # type: ignore[misc]
        def __call__(self, inputs: Any, cache: Any = None, input_embeddings: Any = None) -> Any:
            import mlx.core as mx

            found = self.model.embed_tokens(inputs) if input_embeddings is None else input_embeddings
            if found.dtype == mx.float32:
                root: float = self.args.hidden_size**0.5
                found = found * (root / mx.array(root, mx.bfloat16).astype(mx.float32))
            return super().__call__(inputs, cache, found)

    return Model
