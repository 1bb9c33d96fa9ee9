"""The files of the checkpoint but its weights, in the layout that Qwen2-VL has on the hub.

Qwen2-VL is read by transformers, mlx-vlm and llama.cpp's converter alike. Of its rotary positions the height and the
width take sections of their own, so that an engine that gets image positions wrong answers wrongly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .. import vocabulary
from ..families import QWEN_VOCABULARY, Family, Vocabulary
from .sentences import vocabulary_lines

PATCH, MERGE = 8, 2
LEAST, MOST = 8 * 16 * 16, 16 * 16 * 16
"""Pixels of a picture as the model sees it; each 16 × 16 of them are a token."""
CONTEXT = 2048
START, END, PAD, FILM = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
FAMILY = Family(
    "qwen2_vl",
    {},
    Vocabulary(
        QWEN_VOCABULARY.kind,
        last=(*QWEN_VOCABULARY.last, START, END, PAD, FILM),
        pre=QWEN_VOCABULARY.pre,
        settings=QWEN_VOCABULARY.settings,
    ),
    TEMPLATE,
    ("<|im_end|>", "<|endoftext|>"),
    "<|im_end|>",
    context=CONTEXT,
)
PICTURES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": MERGE,
    "min_pixels": LEAST,
    "max_pixels": MOST,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
}


def write(folder: Path) -> dict[str, Any]:
    """Everything but weights; the content of config.json."""
    size = vocabulary.write(folder, FAMILY, vocabulary_lines())
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    ends = [ids[token] for token in FAMILY.ends]
    config = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "max_window_layers": 2,
        "sliding_window": CONTEXT,
        "use_sliding_window": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "initializer_range": 0.06,
        "vocab_size": -(-size // 64) * 64,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ends,
        "pad_token_id": ids["<|endoftext|>"],
        "vision_start_token_id": ids[START],
        "vision_end_token_id": ids[END],
        "vision_token_id": ids[PAD],
        "image_token_id": ids[PAD],
        "video_token_id": ids[FILM],
        "torch_dtype": "float32",
        "use_cache": True,
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 3,
            "embed_dim": 64,
            "hidden_size": 128,
            "mlp_ratio": 4,
            "num_heads": 4,
            "in_chans": 3,
            "in_channels": 3,
            "patch_size": PATCH,
            "spatial_patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "initializer_range": 0.06,
        },
    }
    put(folder / "config.json", config)
    put(folder / "generation_config.json", {k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")})
    put(folder / "preprocessor_config.json", PICTURES)
    return config


def put(path: Path, data: Any) -> None:
    """Write `data` as JSON."""
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
