"""Casts a safetensors checkpoint to another floating-point type, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import Unsupported
from llmctl.models.convert.processes import folders
from llmctl.models.convert.processes.serving import serve

FLOATS = ("F64", "F32", "F16", "BF16")
HALF_LIMIT = 65520.0  # from here on a value becomes infinity
WHOLE = ("I64", "I32", "I16", "I8", "U8", "BOOL")


def convert(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """`source` folder → `target` folder in `dtype`; the files keep their names and their tensors."""
    import torch
    from safetensors import safe_open

    source, target, dtype = Path(request["source"]), Path(request["target"]), request["dtype"]
    wanted, total = getattr(torch, dtype), 0
    places: dict[str, str] = {}
    for shard in sorted(source.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            names = folders.names(tensors)
            table = [_described(tensors.get_slice(name), name, dtype, shard) for name in names]
            writer = folders.Writer(target / shard.name, table, {"format": "pt"})
            for name, kind, _, _ in table:
                tensor = tensors.get_tensor(name)
                writer.add(_bytes(_cast(tensor, wanted, name, dtype) if kind in folders.NAMES.values() else tensor))
            writer.close()
        places |= dict.fromkeys(names, shard.name)
        total += writer.total
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config |= {key: dtype for key in ("dtype", "torch_dtype") if key in config} or {"torch_dtype": dtype}
    folders.copy_beside(source, target)
    folders.write_index(target, places, total)
    folders.write_config(target, config)
    return {"tools": {"torch": torch.__version__}}


def _described(tensor: Any, name: str, dtype: str, shard: Path) -> folders.Described:
    """The tensor as it is after the cast."""
    kind, shape = tensor.get_dtype(), list(tensor.get_shape())
    if kind not in (*FLOATS, *WHOLE):
        raise Unsupported(f"{shard.name}: {name} is {kind}: quantized weights have no other precision to take")
    kind = folders.NAMES[dtype] if kind in FLOATS else kind
    size = {"64": 8, "32": 4, "16": 2}.get(kind[-2:], 1)
    for length in shape:
        size *= length
    return name, kind, shape, size


def _cast(tensor: Any, wanted: Any, name: str, dtype: str) -> Any:
    if dtype == "float16" and tensor.numel():
        most = max(abs(end.item()) for end in tensor.aminmax())
        if HALF_LIMIT <= most < float("inf"):
            raise Unsupported(f"{name} holds values that float16 cannot ({most:g})", hint="use bf16")
    return tensor.to(wanted)


def _bytes(tensor: Any) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


if __name__ == "__main__":
    serve(convert)
