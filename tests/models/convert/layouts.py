"""GGUF files of many shapes, and what llama.cpp's own llama-quantize makes of their tensors' types.

llama_quantize.json was written by `python -m tests.models.convert.layouts LLAMA_QUANTIZE`, with a llama-quantize built
from the very archive that llmctl's converter comes from: for each layout and quantization one letter a tensor.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmctl.models.convert.gguf_types import MAIN_TYPE, Shape, Tensor

SEEN = Path(__file__).with_name("llama_quantize.json")
LETTERS = {
    "F32": "f", "F16": "h", "Q4_0": "a", "Q4_1": "b", "Q5_0": "c", "Q5_1": "d", "Q8_0": "8", "Q2_K": "2", "Q3_K": "3",
    "Q4_K": "4", "Q5_K": "5", "Q6_K": "6",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    shape: Shape
    hidden: int = 256
    inner: int = 512
    tied: bool = False
    fused: bool = False

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name → shape, rows last."""
        shape, hidden = self.shape, self.hidden
        keys = shape.kv_heads * (hidden // shape.heads)
        found: dict[str, tuple[int, ...]] = {"token_embd.weight": (64, hidden), "output_norm.weight": (hidden,)}
        if not self.tied:
            found["output.weight"] = (64, hidden)
        attention = {"attn_q": (hidden, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden)}
        if self.fused:
            attention = {"attn_qkv": (hidden + 2 * keys, hidden)}
        inner = {"ffn_gate": (self.inner, hidden), "ffn_up": (self.inner, hidden), "ffn_down": (hidden, self.inner)}
        if shape.experts:
            inner = {f"{name}_exps": (shape.experts, *size) for name, size in inner.items()}
            inner["ffn_gate_inp"] = (shape.experts, hidden)
        norms = {"attn_norm": (hidden,), "ffn_norm": (hidden,)}
        for layer in range(shape.layers):
            parts = {**attention, "attn_output": (hidden, hidden), **inner, **norms}
            found |= {f"blk.{layer}.{name}.weight": size for name, size in parts.items()}
        return found

    def described(self) -> list[Tensor]:
        return [
            Tensor(name, size[-1], len(size), "F32" if len(size) == 1 else "F16")
            for name, size in self.tensors().items()
        ]


LAYOUTS = {
    "llama": Layout(Shape("llama", 16, 8, 2)),
    "llama-tied": Layout(Shape("llama", 17, 8, 8), tied=True),
    "llama-70b": Layout(Shape("llama", 80, 8, 2), inner=256),
    "llama-65b": Layout(Shape("llama", 80, 8, 8), inner=256),
    "mixtral": Layout(Shape("llama", 9, 8, 2, 8), inner=256),
    "qwen2-moe": Layout(Shape("qwen2moe", 12, 8, 2, 16), inner=256),
    "falcon": Layout(Shape("falcon", 20, 8, 1), tied=True, fused=True),
    "phi3": Layout(Shape("phi3", 11, 8, 8), fused=True),
    "rows-of-160": Layout(Shape("llama", 8, 4, 4), hidden=160, inner=288),
    "rows-of-144": Layout(Shape("llama", 8, 4, 4), hidden=144, inner=200),
}


def letters(types: dict[str, str]) -> str:
    """One letter a tensor, in the order of the names."""
    return "".join(LETTERS[types[name]] for name in sorted(types))


def write(path: Path, layout: Layout) -> None:
    """A GGUF file of this layout with random weights."""
    import gguf
    import numpy as np

    random, shape = np.random.default_rng(0), layout.shape
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(layout.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(layout.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    writer.add_token_types([1, 1])
    writer.add_token_merges(["a b"])
    for name, size in layout.tensors().items():
        kind = np.float32 if len(size) == 1 else np.float16
        writer.add_tensor(name, random.standard_normal(size).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(llama_quantize: str) -> None:
    import gguf

    seen: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "source.gguf", Path(folder) / "result.gguf"
        for name, layout in LAYOUTS.items():
            write(source, layout)
            for quantization in MAIN_TYPE:
                argv = [llama_quantize, source, result, quantization.upper(), "1"]
                subprocess.run(argv, check=True, capture_output=True)
                types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(result).tensors}
                seen.setdefault(name, {})[quantization] = letters(types)
    SEEN.write_text(json.dumps(seen, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
