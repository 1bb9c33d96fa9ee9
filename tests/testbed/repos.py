"""Repositories for the hub on loopback: checkpoints that are right in their headers, with random bytes as weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 300,
    "max_position_embeddings": 512, "torch_dtype": "bfloat16",
}  # fmt: skip
BLOCK = 2**20


def random_checkpoint(folder: Path, size: int, shards: int = 1) -> Path:
    """A llama-shaped folder with `size` bytes of random weights in `shards` safetensors files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    names = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
        table = {f"blocks.{i}.weight": name for i, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    for i, name in enumerate(names):
        random_safetensors(folder / name, f"blocks.{i}.weight", size // shards)
    return folder


def random_safetensors(path: Path, tensor: str, size: int) -> None:
    """One tensor of `size` random bytes."""
    size -= size % 2
    entry = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}
    header = json.dumps({tensor: entry}).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, size, BLOCK):
            file.write(os.urandom(min(BLOCK, size - start)))
