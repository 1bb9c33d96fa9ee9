"""OpenVINO's graph of a model: over paged attention, with logits of the wanted tokens only, compiled for this CPU."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

VALUES = "value_cache."
CACHES = ("key_cache.", VALUES)
TOKENS = 1
WANTED = "wanted"
SETTINGS = {"float32": "f32", "bfloat16": "bf16"}
NAMES = {short: name for name, short in SETTINGS.items()}
EXACT = "float32"


@dataclass(frozen=True)
class Compiled:
    """A compiled model, the file of the weights it was compiled from, and what it computes in; tokens of a cache block,
    bytes of one in all layers, and how many logits a token has."""

    model: Any
    weights: Path
    dtype: str
    block: int
    block_bytes: int
    vocab: int


def read(xml: Path) -> Any:
    """The model at `xml`, over paged attention; raises what OpenVINO raises, when it is not what was written."""
    import openvino

    model = openvino.Core().read_model(str(xml))
    page(model)
    return model


def compiled(model: Any, xml: Path, dtype: str, threads: int, cache_bits: int | None) -> Compiled:
    """Compile what `read` gave; raises what OpenVINO raises."""
    import openvino

    cache = f"u{cache_bits}" if cache_bits else SETTINGS[dtype]
    settings = {
        "INFERENCE_PRECISION_HINT": SETTINGS[dtype],
        "INFERENCE_NUM_THREADS": threads,
        "KV_CACHE_PRECISION": cache,
        "ENABLE_CPU_PINNING": False,  # two engines would sit on the same cores and leave the others idle
    }
    if dtype == EXACT:
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # else activations become int8 before compressed weights
    made = openvino.Core().compile_model(model, "CPU", settings)
    caches = [port for port in made.inputs if port.get_any_name().startswith(CACHES)]
    values = next(port for port in caches if port.get_any_name().startswith(VALUES))
    block_bytes = sum(port.get_element_type().size * prod(block_shape(port)) for port in caches)
    vocab = made.output(0).get_partial_shape()[-1].get_length()
    really = made.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Compiled(made, xml.with_suffix(".bin"), NAMES[really], block_shape(values)[TOKENS], block_bytes, vocab)


def block_shape(port: Any) -> list[int]:
    """The shape of one block of a cache: heads, tokens, width. Quantized keys have their scales as further tokens,
    values theirs as further width."""
    return [size.get_length() for size in list(port.get_partial_shape())[1:]]


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
