"""Small checkpoints with random weights, made in milliseconds: for headers and for the mechanics of engines."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{%- for m in messages %}"
    "{%- if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role ' + m.role) }}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 258  # <|im_end|>


def byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the bytes 0 to 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b if b in printable else next(others)) for b in range(256)]


def make_gguf(
    path: Path, *, layers=2, hidden=64, context=2048, seed=0, poison=False, spm=False, **changed: Any
) -> Path:
    """A Qwen2-shaped model over bytes; `poison` puts NaN into its weights, `spm` gives it SentencePiece."""
    import gguf
    import numpy as np

    random = np.random.default_rng(seed)
    merges = ["h e", "l l", "he ll", "t h", "i n", "hell o"]
    tokens = [*byte_tokens(), *SPECIAL, *(merge.replace(" ", "") for merge in merges)]
    spm_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    if spm:  # pieces of which "</s>" can be merged
        tokens = ["<unk>", "<s>", "</s>", *spm_bytes, "▁", *"helo<s>/", "</", "</s", "s>", "▁h", "ll", "▁he", "▁hello"]
    writer = gguf.GGUFWriter(path, changed.get("architecture", "qwen2"))
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(0)
    writer.add_token_list(tokens)
    if spm:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
        writer.add_token_merges(merges)
        writer.add_eos_token_id(END)
        writer.add_bos_token_id(256)
        writer.add_add_bos_token(False)
    writer.add_chat_template(changed.get("template", TEMPLATE))

    def add(name: str, *shape: int, scale: float = 0.15) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float32))

    add("token_embd.weight", len(tokens), hidden, scale=1.0)
    add("output.weight", len(tokens), hidden, scale=1.0)
    norm = np.full(hidden, np.nan if poison else 1.0, np.float32)
    writer.add_tensor("output_norm.weight", norm)
    shapes = {
        "attn_q": (hidden, hidden), "attn_k": (hidden // 2, hidden), "attn_v": (hidden // 2, hidden),
        "attn_output": (hidden, hidden), "ffn_gate": (2 * hidden, hidden), "ffn_up": (2 * hidden, hidden),
        "ffn_down": (hidden, 2 * hidden),
    }  # fmt: skip
    for layer in range(layers):
        for name, shape in shapes.items():
            add(f"blk.{layer}.{name}.weight", *shape)
        for name in ("attn_q", "attn_k", "attn_v"):
            add(f"blk.{layer}.{name}.bias", shapes[name][0])
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def safetensors_bytes(tensors: dict[str, tuple[str, list[int], int]], metadata: dict[str, str] | None = None) -> bytes:
    """A file of zeros: name → (dtype, shape, bytes)."""
    table: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (dtype, shape, size) in tensors.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(table).encode()
    return struct.pack("<Q", len(header)) + header + bytes(at)


CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 2048, "eos_token_id": [1, 2],
    "torch_dtype": "bfloat16",
}  # fmt: skip


def make_folder(
    folder: Path, config: dict[str, Any] | None = None, files: dict[str, bytes | None] | None = None
) -> Path:
    """A Hugging Face folder of CONFIG with `config` on top; `files` adds, replaces or (None) leaves out files."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"model.embed_tokens.weight": ("BF16", [300, 64], 300 * 64 * 2)}
    for layer in range(2):
        weights[f"model.layers.{layer}.self_attn.k_proj.weight"] = ("BF16", [32, 64], 32 * 64 * 2)
    contents: dict[str, bytes | None] = {
        "config.json": json.dumps({**CONFIG, **(config or {})}).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": json.dumps({"chat_template": TEMPLATE}).encode(),
        "generation_config.json": b'{"eos_token_id": 2}',
        "model.safetensors": safetensors_bytes(weights),
        **(files or {}),
    }
    for name, data in contents.items():
        if data is not None:
            (folder / name).write_bytes(data)
    return folder
