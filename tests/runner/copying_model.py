"""A model whose weights are written by hand: it repeats its prompt's last PERIOD tokens, read out of its KV cache.

One Qwen2 layer with one head. Queries and keys are constants (biases), so that with rotary positions (RoFormer,
arXiv:2104.09864) a token attends to the one PERIOD − 1 before it and to no other. The value is that token's embedding;
it goes to the other half of the hidden state, the only half that the output matrix reads.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

PERIOD = 48
HALF = 128
HIDDEN = 2 * HALF
BASE = 100.0
SHARPNESS = 12.0

# Names in a checkpoint, and in a GGUF file.
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
    "model.layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
    "model.layers.0.self_attn.q_proj.bias": "blk.0.attn_q.bias",
    "model.layers.0.self_attn.k_proj.weight": "blk.0.attn_k.weight",
    "model.layers.0.self_attn.k_proj.bias": "blk.0.attn_k.bias",
    "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    "model.layers.0.self_attn.v_proj.bias": "blk.0.attn_v.bias",
    "model.layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
    "model.layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
    "model.layers.0.mlp.up_proj.weight": "blk.0.ffn_up.weight",
    "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def checkpoint(source: Path, folder: Path) -> Path:
    """A checkpoint in `folder` with the tokenizer and the template of the Qwen2 checkpoint `source`."""
    from safetensors.numpy import save_file

    shutil.copytree(source, folder)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(
            {
                **config, "hidden_size": HIDDEN, "intermediate_size": HALF, "num_hidden_layers": 1, "rope_theta": BASE,
                "num_attention_heads": 1, "num_key_value_heads": 1, "tie_word_embeddings": False,
            }
        )
    )  # fmt: skip
    save_file(tensors(config["vocab_size"]), folder / "model.safetensors", {"format": "pt"})
    return folder


def gguf(source: Path, path: Path) -> Path:
    """The same as a GGUF file, with the tokenizer and the template of the file `source`."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    sizes = {
        "block_count": 1, "embedding_length": HIDDEN, "feed_forward_length": HALF, "attention.head_count": 1,
        "attention.head_count_kv": 1, "rope.freq_base": BASE,
    }  # fmt: skip
    ours: dict[str, Any] = {f"qwen2.{name}": value for name, value in sizes.items()}
    writer = GGUFWriter(path, "qwen2")
    for field in GGUFReader(source).fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            value = ours.get(field.name, field.contents())
            nested = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, value, field.types[0], nested)
            if field.name == "tokenizer.ggml.tokens":
                vocabulary = len(value)
    for name, data in tensors(vocabulary).items():
        writer.add_tensor(NAMES[name], data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(vocabulary: int) -> dict[str, Any]:
    """The weights, float32, by their names in a checkpoint."""
    words = np.random.default_rng(0).standard_normal((vocabulary, HALF))
    words = words / np.linalg.norm(words, axis=1, keepdims=True)
    nothing = np.zeros((vocabulary, HALF))
    square = np.zeros((HIDDEN, HIDDEN))
    value, output = square.copy(), square.copy()
    value[:HALF, :HALF] = np.eye(HALF)
    output[HALF:, :HALF] = np.eye(HALF)
    turn = -(BASE ** (-np.arange(HALF) / HALF)) * (PERIOD - 1)
    layer = "model.layers.0."
    made = {
        "model.embed_tokens.weight": np.hstack([words, nothing]),
        layer + "input_layernorm.weight": np.ones(HIDDEN),
        layer + "self_attn.q_proj.weight": square,
        layer + "self_attn.q_proj.bias": SHARPNESS * np.concatenate([np.cos(turn), np.sin(turn)]),
        layer + "self_attn.k_proj.weight": square,
        layer + "self_attn.k_proj.bias": SHARPNESS * np.concatenate([np.ones(HALF), np.zeros(HALF)]),
        layer + "self_attn.v_proj.weight": value,
        layer + "self_attn.v_proj.bias": np.zeros(HIDDEN),
        layer + "self_attn.o_proj.weight": output,
        layer + "post_attention_layernorm.weight": np.ones(HIDDEN),
        layer + "mlp.gate_proj.weight": np.zeros((HALF, HIDDEN)),
        layer + "mlp.up_proj.weight": np.zeros((HALF, HIDDEN)),
        layer + "mlp.down_proj.weight": np.zeros((HIDDEN, HALF)),
        "model.norm.weight": np.ones(HIDDEN),
        "lm_head.weight": np.hstack([nothing, 2 * words]),
    }
    return {name: np.ascontiguousarray(data, dtype=np.float32) for name, data in made.items()}
