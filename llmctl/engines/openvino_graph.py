"""OpenVINO's graph of a model: over paged attention, with logits of the wanted tokens only, compiled for this CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CACHES = ("key_cache.", "value_cache.")
WANTED = "wanted"
BLOCK_AXIS = 2  # of a cache's shape: blocks, heads, tokens of a block, width
SETTINGS = {"float32": "f32", "bfloat16": "bf16"}
EXACT = "float32"


@dataclass(frozen=True)
class Compiled:
    """A compiled model: tokens of a cache block, bytes of one in all layers, and how many logits a token has."""

    model: Any
    block: int
    block_bytes: int
    vocab: int


def compiled(xml: Path, dtype: str, threads: int, cache_bits: int | None) -> Compiled:
    """Read and compile the model at `xml`; raises what OpenVINO raises."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(xml))
    page(model)
    cache = f"u{cache_bits}" if cache_bits else SETTINGS[dtype]
    settings = {
        "INFERENCE_PRECISION_HINT": SETTINGS[dtype],
        "INFERENCE_NUM_THREADS": threads,
        "KV_CACHE_PRECISION": cache,
        "ENABLE_CPU_PINNING": False,  # two engines would sit on the same cores and leave the others idle
    }
    if dtype == EXACT:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # else activations become int8 before compressed weights
    made = core.compile_model(model, "CPU", settings)
    ports = [port for port in made.inputs if port.get_any_name().startswith(CACHES)]
    shapes = [[size.get_length() for size in list(port.get_partial_shape())[1:]] for port in ports]
    sizes = [port.get_element_type().size for port in ports]
    block_bytes = sum(size * a * b * c for size, (a, b, c) in zip(sizes, shapes, strict=True))
    return Compiled(made, shapes[0][BLOCK_AXIS - 1], block_bytes, made.output(0).get_partial_shape()[-1].get_length())


def page(model: Any) -> None:
    """Change a model with states of its own in place: keys and values come in as blocks, and of all hidden states only
    those at the indices WANTED go through the last product, the largest of all."""
    import numpy as np
    import openvino
    from openvino import opset13
    from openvino._offline_transformations import paged_attention_transformation

    paged_attention_transformation(model)
    head = model.outputs[0].get_node().input(0).get_source_output().get_node()
    hidden = head.input(0)
    wanted = opset13.parameter(openvino.PartialShape([-1]), np.int64, name=WANTED)
    wanted.get_output_tensor(0).set_names({WANTED})
    rows = opset13.gather(hidden.get_source_output(), wanted, opset13.constant(np.int64(0)))
    hidden.replace_source_output(rows.output(0))
    model.add_parameters([wanted])
    model.validate_nodes_and_infer_types()
