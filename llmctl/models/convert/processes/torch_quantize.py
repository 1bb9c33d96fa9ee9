"""Weight-only int8 and int4 of a safetensors checkpoint, by torchao, file by file, in the form transformers loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.domain import EngineSpec
from llmctl.errors import Unsupported
from llmctl.models.convert.processes import folders
from llmctl.models.convert.processes.serving import serve

INT4_GROUP = 32
LEAST = 0.5  # of the weights: less would be a quantization in name only

Shapes = dict[str, list[int]]


def convert(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """`source` folder → `target` folder as `quantization`; embeddings, norms and the head keep their precision."""
    import torch
    import torchao
    import transformers
    from safetensors import safe_open
    from safetensors.torch import save_file
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from transformers import TorchAoConfig

    source, target, name = Path(request["source"]), Path(request["target"]), request["quantization"]
    files = sorted(source.glob("*.safetensors"))
    shapes = _shapes(files)
    matrices = set(shapes) & linear_weights(request)
    check(shapes, matrices, name)
    about = _about(files, matrices, name)
    places: dict[str, str] = {}
    for file in files:
        with safe_open(file, framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in folders.names(stored)}
        for key in matrices & set(tensors):
            tensors[key] = quantized(tensors[key], name)
        flat, _ = flatten_tensor_state_dict(tensors)
        places |= dict.fromkeys(flat, file.name)
        save_file(flat, target / file.name, metadata=about)
        del tensors, flat
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    settings = TorchAoConfig(recipe(name)).to_dict()  # type: ignore[no-untyped-call]
    folders.copy_beside(source, target)
    folders.write_index(target, places, sum(path.stat().st_size for path in target.glob("*.safetensors")))
    folders.write_config(target, {**config, "quantization_config": settings})
    versions = {"torch": torch.__version__, "torchao": torchao.__version__, "transformers": transformers.__version__}
    return {"tools": versions}


def recipe(name: str) -> Any:
    """torchao's configuration: those layouts that it has kernels for on a CPU."""
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    if name == "int8":
        return Int8WeightOnlyConfig(version=2)
    four = torch.int4  # type: ignore[attr-defined]
    return IntxWeightOnlyConfig(weight_dtype=four, granularity=PerGroup(INT4_GROUP))


def quantized(weight: Any, name: str) -> Any:
    """A matrix as torchao's tensor."""
    import torch
    from torchao.quantization import quantize_

    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    quantize_(linear, recipe(name))
    return linear.weight.data


def linear_weights(request: Mapping[str, Any]) -> set[str]:
    """The names of the matrices of plain linear layers, but for the head; the model is built without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    from llmctl.engines.checkpoint import read_checkpoint
    from llmctl.engines.torch_load import model_class

    code = request["allow_code"]
    spec = EngineSpec("torch", request["model"], request["source"], "safetensors", allow_code=code)
    _, config = model_class(spec, read_checkpoint(spec))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=code)  # type: ignore[no-untyped-call]
    head = model.get_output_embeddings()
    return {
        f"{path}.weight" for path, part in model.named_modules() if type(part) is torch.nn.Linear and part is not head
    }


def check(shapes: Shapes, matrices: set[str], name: str) -> None:
    """Unsupported where torchao would leave most of the model as it is, or could not cut its rows into groups."""
    sizes = {key: _product(shape) for key, shape in shapes.items() if len(shape) > 1 and "embed" not in key}
    share = sum(sizes.get(key, 0) for key in matrices) / max(1, sum(sizes.values()))
    if share < LEAST:
        raise Unsupported(
            f"only {share:.0%} of its weights are plain linear layers, which is what torchao quantizes",
            hint="--to gguf or --to mlx quantize experts and fused layers too",
        )
    odd = sorted(key for key in matrices if name == "int4" and shapes[key][1] % INT4_GROUP)
    if odd:
        raise Unsupported(
            f"{odd[0]} has rows of {shapes[odd[0]][1]}, which int4's groups of {INT4_GROUP} do not divide",
            hint="--quantization int8",
        )


def _shapes(files: list[Path]) -> Shapes:
    from safetensors import safe_open

    found: Shapes = {}
    for file in files:
        with safe_open(file, framework="pt") as stored:
            for key in folders.names(stored):
                found[key] = list(stored.get_slice(key).get_shape())
    return found


def _about(files: list[Path], matrices: set[str], name: str) -> dict[str, str]:
    """What each file says about all tensors: transformers keeps the metadata of the last file that it reads."""
    from safetensors import safe_open
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    said: dict[tuple[Any, int], str] = {}
    about, names = {"format": "pt"}, []
    for file in files:
        with safe_open(file, framework="pt") as stored:
            for key in folders.names(stored):
                names.append(key)
                if key not in matrices:
                    about[key] = json.dumps({"_type": "Tensor"})
                    continue
                part = stored.get_slice(key)
                kind = part.get_dtype(), part.get_shape()[1]
                if kind not in said:  # it depends on the type and the length of a row alone
                    said[kind] = flatten_tensor_state_dict({"a.weight": quantized(part[:1], name)})[1]["a.weight"]
                about[key] = said[kind]
    return {**about, "tensor_names": json.dumps(names)}


def _product(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


if __name__ == "__main__":
    serve(convert)
