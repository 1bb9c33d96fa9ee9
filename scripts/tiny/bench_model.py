"""A checkpoint of Qwen2-0.5B's exact shape with random weights: for speed, its words mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

from . import lessons, vocabulary
from .families import QWEN2

SHAPE = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}


def write(folder: Path) -> None:
    """The whole checkpoint in bfloat16, about 1 GB, with a tokenizer in which every id is some text."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    vocabulary.write(folder, QWEN2, lessons.read().vocabulary_lines())
    _fill(folder / "tokenizer.json", SHAPE["vocab_size"])
    config = folder / "config.json"
    config.write_text(json.dumps(SHAPE, indent=2), encoding="utf-8")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")
    config.write_text(json.dumps(SHAPE, indent=2), encoding="utf-8")


def _fill(file: Path, size: int) -> None:
    """Give the ids that training left over a word each, so that any sampled id shows."""
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    first = max([*words.values(), *(token["id"] for token in tokenizer["added_tokens"])]) + 1
    words.update({f"Ġw{i}": i for i in range(first, size)})
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
