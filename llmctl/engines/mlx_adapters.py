"""LoRA adapters (2106.09685) on MLX: a model with each of them, which share all weights but the adapter's own."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.engines.lora import CONFIG, PREFIX, WEIGHTS, read_settings
from llmctl.errors import BadCheckpoint, LlmctlError, Unsupported

MLX_WEIGHTS = "adapters.safetensors"
FOR_ANOTHER = "it was trained on another model"


def with_adapters(model: Any, adapters: Mapping[str, str]) -> dict[str | None, Any]:
    """The model by adapter name, None the one without; BadCheckpoint or Unsupported names the adapter at fault."""
    models: dict[str | None, Any] = {None: model}
    for name, path in adapters.items():
        try:
            models[name] = _with(copy.deepcopy(model), name, Path(path))
        except LlmctlError as error:
            if repr(name) in error.message:
                raise
            raise type(error)(f"adapter {name!r}: {error.message}", hint=error.hint) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise BadCheckpoint(f"adapter {name!r}: {why}"[:500], hint=FOR_ANOTHER) from error
    return models


def bytes_of(models: Mapping[str | None, Any]) -> int:
    """Bytes of all the models' weights, what they share counted once."""
    from mlx.utils import tree_flatten

    def size(model: Any) -> int:
        leaves: Any = tree_flatten(model.parameters())
        return sum(int(array.nbytes) for _, array in leaves)

    base = size(models[None])
    return base + sum(size(model) - base for name, model in models.items() if name is not None)


def _with(model: Any, name: str, folder: Path) -> Any:
    """The model with an adapter in mlx-lm's format or in peft's."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    if (folder / MLX_WEIGHTS).is_file():
        from mlx_lm.utils import load_adapters

        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("fine_tune_type", "lora") == "full":
            raise Unsupported("it is a whole model, no LoRA adapter", hint="serve it as a model of its own")
        load_adapters(model, str(folder))
    else:
        _apply_peft(model, name, folder)
    model.eval()
    mx.eval(model.parameters())
    leaves: Any = tree_flatten(model.parameters())
    wrong = [key for key, array in leaves if ".lora_" in key and not bool(mx.isfinite(array).all())]
    if wrong:
        raise BadCheckpoint(f"the weights of {wrong[0]} are not finite")
    return model


def _apply_peft(model: Any, name: str, folder: Path) -> None:
    """Lay peft's matrices over the model's linear layers: y + scale · (x A) B."""
    import mlx.core as mx
    from mlx.utils import tree_unflatten
    from mlx_lm.tuner.lora import LoRALinear

    settings, modules = read_settings(name, folder), dict(model.named_modules())
    pairs: dict[str, dict[str, Any]] = {}
    stored: Any = mx.load(str(folder / WEIGHTS))
    for key, value in stored.items():
        path, _, part = key.removeprefix(PREFIX).rpartition(".lora_")
        if part not in ("A.weight", "B.weight"):
            raise BadCheckpoint(f"{key} is no matrix of a LoRA adapter")
        pairs.setdefault(path, {})[part[0]] = value
    if alone := sorted(path for path, pair in pairs.items() if len(pair) != 2):
        raise BadCheckpoint(f"{alone[0]} has one matrix of two")
    made = []
    for path, pair in pairs.items():
        if path not in modules:
            raise BadCheckpoint(f"it adapts {path}, which the model on mlx does not have", hint=FOR_ANOTHER)
        rank = len(pair["A"])
        layer: Any = LoRALinear.from_base(modules[path], r=rank, scale=settings.scale(path, rank))
        wanted = (layer.lora_a.T.shape, layer.lora_b.T.shape)
        if (pair["A"].shape, pair["B"].shape) != wanted:
            raise BadCheckpoint(f"{path} is {pair['A'].shape} and {pair['B'].shape}, not {wanted}", hint=FOR_ANOTHER)
        layer.lora_a, layer.lora_b = pair["A"].T, pair["B"].T
        made.append((path, layer))
    model.update_modules(tree_unflatten(made))
