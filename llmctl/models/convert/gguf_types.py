"""Which type each tensor of a quantized GGUF file gets: llama.cpp's own choice, by name, place and shape.

The rules are those of its src/llama-quant.cpp for a quantization without an importance matrix. Types are named as
`gguf.GGMLQuantizationType` names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BLOCK = {"Q2_K": 256, "Q3_K": 256, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256}  # the others have 32
FALL_BACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
MAIN_TYPE = {
    "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1", "q8_0": "Q8_0", "q2_k": "Q2_K", "q3_k_s": "Q3_K",
    "q3_k_m": "Q3_K", "q3_k_l": "Q3_K", "q4_k_s": "Q4_K", "q4_k_m": "Q4_K", "q5_k_s": "Q5_K", "q5_k_m": "Q5_K",
    "q6_k": "Q6_K",
}  # fmt: skip
KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight",
    "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight",
    "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight",
    "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
    "attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd",
    ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
KEPT_WHOLE = ("position_embd.weight", "token_types.weight")
VALUES, KEYS, QKV = "attn_v.weight", "attn_k.weight", "attn_qkv.weight"
SEVENTY = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}  # layers of those it takes for a 70B


@dataclass(frozen=True)
class Shape:
    """What the choice depends on besides the tensors. `experts` is 0 for a dense model."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int = 0

    @property
    def shared_by(self) -> int:
        """Query heads to one key head."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def seventy(self) -> bool:
        apart = self.architecture != "llama" or self.heads != self.kv_heads
        return SEVENTY.get(self.architecture) == self.layers and apart


@dataclass(frozen=True)
class Tensor:
    """A tensor of the source file; `columns` is the length of its rows, `dims` how many dimensions it has."""

    name: str
    columns: int
    dims: int
    type: str


def choose(tensors: Iterable[Tensor], quantization: str, shape: Shape) -> dict[str, str]:
    """Tensor name → type. Norms, vectors and the small matrices of KEPT stay what they are."""
    ordered = sorted(tensors, key=lambda tensor: (_layer(tensor.name), tensor.name))
    names = {tensor.name for tensor in ordered}
    chooser = _Chooser(quantization, shape, sum(map(_like_values, names)), tied="output.weight" not in names)
    return {t.name: _fitting(chooser.type_of(t), t.columns) if quantizable(t) else t.type for t in ordered}


def quantizable(tensor: Tensor) -> bool:
    """Whether llama.cpp quantizes such a tensor at all."""
    name = tensor.name
    if tensor.dims < 2 or not name.endswith("weight") or name in KEPT_WHOLE:
        return False
    return not any(part in name for part in KEPT)


def _fitting(wanted: str, columns: int) -> str:
    """`wanted`, or what its rows can be cut into blocks of."""
    if columns % BLOCK.get(wanted, 32) == 0:
        return wanted
    smaller = FALL_BACK.get(wanted, wanted)
    return smaller if columns % 32 == 0 else "F16"


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _like_values(name: str) -> bool:
    return any(part in name for part in (VALUES, QKV, "attn_kv_b.weight"))


def more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between them."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


class _Chooser:
    """Counts as it goes: the rules speak of the n-th value matrix and of the n-th down projection."""

    def __init__(self, quantization: str, shape: Shape, values: int, *, tied: bool) -> None:
        self.quantization, self.shape, self.values, self.tied = quantization, shape, values, tied
        self.main = MAIN_TYPE[quantization]
        self.value = self.down = 0

    def type_of(self, tensor: Tensor) -> str:
        name = tensor.name
        embedding = name in ("token_embd.weight", "per_layer_token_embd.weight")
        if name == "output.weight" or (self.tied and embedding):
            return self._output(tensor)
        if embedding:
            return self.main
        if _like_values(name):
            self.value += 1
            return self._value(self.value - 1)
        if KEYS in name:
            return "Q8_0" if self.shape.experts == 8 else self.main
        if "ffn_down" in name:
            self.down += 1
            return self._down(_layer(name) if self.shape.experts > 1 else self.down - 1)
        if "attn_output.weight" in name:
            return self._attention_output()
        return self.main

    def _output(self, tensor: Tensor) -> str:
        if self.shape.architecture == "falcon" or tensor.columns % BLOCK.get(self.main, 32):
            return "Q8_0"
        return "Q8_0" if self.main == "Q8_0" else "Q6_K"

    def _value(self, place: int) -> str:
        name, found = self.quantization, self.main
        if name == "q2_k":
            found = "Q4_K" if self.shape.shared_by >= 4 else "Q3_K"
        elif name == "q3_k_m":
            found = "Q5_K" if place < 2 else "Q4_K"
        elif name == "q3_k_l" or (name == "q4_k_s" and place < 4):
            found = "Q5_K"
        elif name in ("q4_k_m", "q5_k_m") and more_bits(place, self.values):
            found = "Q6_K"
        if self.shape.seventy and found in ("Q3_K", "Q4_K"):
            found = "Q5_K"  # eight query heads share each of these
        return "Q8_0" if self.shape.experts == 8 else found

    def _down(self, layer: int) -> str:
        name, layers, falcon = self.quantization, self.shape.layers, self.shape.architecture == "falcon"
        more = more_bits(layer, layers)
        if name == "q2_k":
            return "Q3_K"
        if name == "q3_k_m":
            return "Q5_K" if layer < layers // 16 else "Q4_K" if not falcon or more else "Q3_K"
        if name == "q3_k_l":
            return "Q4_K" if falcon else "Q5_K"
        if name == "q4_k_m" and falcon:
            return "Q6_K" if layer < layers // 16 else "Q5_K" if more else "Q4_K"
        if name in ("q4_k_m", "q5_k_m"):
            return "Q6_K" if more else self.main
        if name == "q4_k_s" and not falcon and layer < layers // 8:
            return "Q5_K"
        return self.main

    def _attention_output(self) -> str:
        name = self.quantization
        if self.shape.architecture == "falcon":
            return "Q4_K" if name == "q3_k_l" else self.main
        if self.shape.experts == 8:
            return "Q5_K" if name in ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m") else self.main
        better: Mapping[str, str] = {"q2_k": "Q3_K", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K"}
        return better.get(name, self.main)
