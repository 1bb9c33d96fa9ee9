"""MLX weights of a safetensors or MLX checkpoint, by mlx-lm's own loader and quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmctl.domain import EngineSpec
from llmctl.errors import Unsupported
from llmctl.models.convert import plan
from llmctl.models.convert.processes import folders
from llmctl.models.convert.processes.serving import serve

BLOCKS = {"mxfp4": 32, "nvfp4": 16, "mxfp8": 32}
MIXED_GROUP = 64


def convert(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """`source` folder → `target` folder as `quantization`, with a config.json that plain mlx-lm reads right too."""
    import mlx.core as mx
    from mlx_lm.utils import quantize_model, save_config, save_model

    from llmctl.engines import mlx, mlx_load
    from llmctl.engines.checkpoint import read_checkpoint

    source, target, name = Path(request["source"]), Path(request["target"]), request["quantization"]
    spec = EngineSpec("mlx", request["model"], str(source), "safetensors", allow_code=request["allow_code"])
    mlx.check(spec)
    model, config = mlx_load.read_model(spec, read_checkpoint(spec))
    if name in plan.CASTS["mlx"]:
        cast(model, getattr(mx, plan.DTYPES[name]))
        config = {key: value for key, value in config.items() if key != "dtype"}
        config["torch_dtype"] = plan.DTYPES[name]
    else:
        settings = quantizer(model, name)
        check_groups(model, settings["group_size"], name)
        model, config = quantize_model(model, dict(config), **settings)
    save_model(target, model, donate_model=True)
    save_config(config, target / "config.json")
    folders.copy_beside(source, target)
    return {"tools": {name: version(name) for name in ("mlx", "mlx-lm")}}


def quantizer(model: Any, name: str) -> dict[str, Any]:
    """The arguments of mlx-lm's `quantize_model` for a quantization's name."""
    from mlx_lm.convert import mixed_quant_predicate_builder

    if name in BLOCKS:
        return {"group_size": BLOCKS[name], "bits": 8 if name == "mxfp8" else 4, "mode": name}
    if name.startswith("mixed-"):
        recipe = mixed_quant_predicate_builder(name.replace("-", "_"), model, MIXED_GROUP)
        return {"group_size": MIXED_GROUP, "bits": 4, "quant_predicate": recipe}
    bits, _, group = name.partition("bit-g")
    return {"group_size": int(group or 64), "bits": int(bits.removesuffix("bit"))}


def check_groups(model: Any, group: int, name: str) -> None:
    """mlx-lm would leave a matrix whose rows the group does not divide as it is, and say nothing."""
    matrices = {path: m.weight.shape[-1] for path, m in model.named_modules() if hasattr(m, "to_quantized")}
    odd = plan.divisible(matrices, group)
    if odd:
        able = [f"{name.partition('-g')[0]}-g{size}" for size in plan.groups_for(matrices.values())]
        works = able if name.partition("-g")[0].endswith("bit") else [f"4{size[-4:]}" for size in able]
        raise Unsupported(
            f"{odd[0]} has rows of {matrices[odd[0]]}, which groups of {group} do not divide "
            f"({len(odd)} of {len(matrices)} matrices)",
            hint=f"--quantization {works[0]}" if able else "--quantization bf16: no group size divides them",
        )


def cast(model: Any, dtype: Any) -> None:
    """All floating-point weights in `dtype`, but for those that the architecture wants to keep."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    keeps = getattr(model, "cast_predicate", lambda _: True)

    def one(path: str, array: Any) -> Any:
        return array.astype(dtype) if keeps(path) and mx.issubdtype(array.dtype, mx.floating) else array

    model.update(tree_map_with_path(one, model.parameters()))


if __name__ == "__main__":
    serve(convert)
