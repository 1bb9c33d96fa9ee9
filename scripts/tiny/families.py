"""The families of tiny models: for each its shape, its kind of tokenizer, its chat template and its end tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import templates

CONTEXT = 2048
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's kind (`sentencepiece` or `bytes`) and its special tokens.

    `first` are the special tokens with the lowest ids, `last` those after the trained pieces. `prefix` puts a space
    before the text, `bos` puts the bos token before a prompt. `stripping` tokens swallow the white space after them.
    `pre` is llama.cpp's name of a byte-level split. `settings` go to tokenizer_config.json as they are.
    """

    kind: str
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    prefix: bool = True
    bos: bool = False
    stripping: tuple[str, ...] = ()
    pre: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One checkpoint: `config` for transformers' `model_type`, `ends` are the eos tokens, the tokenizer's own first.

    `end_of_text` closes a text without a chat. `jinja` keeps the template in a file of its own, as newer models do.
    `rate` is the learning rate; norms on queries and keys want a higher one.
    """

    model_type: str
    config: Mapping[str, Any]
    vocabulary: Vocabulary
    template: str
    ends: tuple[str, ...]
    end_of_text: str
    system: bool = True
    jinja: bool = False
    context: int = CONTEXT
    rate: float = 4e-3


LLAMA_SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": True}
LLAMA_VOCABULARY = Vocabulary(
    "sentencepiece",
    first=("<unk>", "<s>", "</s>"),
    bos=True,
    settings={**LLAMA_SPECIALS, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False},
)
PHI3_VOCABULARY = Vocabulary(
    "sentencepiece",
    first=("<unk>", "<s>", "</s>"),
    last=("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
    stripping=("</s>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
    settings={
        **LLAMA_SPECIALS,
        "tokenizer_class": "LlamaTokenizer",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
    },
)
GEMMA_VOCABULARY = Vocabulary(
    "sentencepiece",
    first=("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"),
    prefix=False,
    bos=True,
    settings={
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
    },
)
PHI_VOCABULARY = Vocabulary(
    "bytes",
    last=("<|endoftext|>",),
    pre="gpt-2",
    settings={
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "add_prefix_space": False,
    },
)
QWEN_VOCABULARY = Vocabulary(
    "bytes",
    last=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    pre="qwen2",
    settings={
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "add_bos_token": False,
    },
)

QWEN2 = Family(
    "qwen2",
    {**GROUPED, "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_theta": 1e6},
    QWEN_VOCABULARY,
    templates.QWEN,
    ("<|im_end|>", "<|endoftext|>"),
    "<|im_end|>",
)

FAMILIES = {
    "tiny-llama": Family(
        "llama",
        {**GROUPED, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "rope_theta": 500000.0},
        LLAMA_VOCABULARY,
        templates.LLAMA,
        ("</s>",),
        "</s>",
    ),
    "tiny-qwen2": QWEN2,
    "tiny-mistral": Family(
        "mistral",
        {**GROUPED, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 64},
        LLAMA_VOCABULARY,
        templates.MISTRAL,
        ("</s>",),
        "</s>",
        system=False,
    ),
    "tiny-phi": Family(
        "phi",
        {
            **SHAPE,
            "intermediate_size": 512,
            "num_key_value_heads": 4,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
        },
        PHI_VOCABULARY,
        templates.PHI,
        ("<|endoftext|>",),
        "<|endoftext|>",
    ),
    "tiny-phi3": Family(
        "phi3",
        {**GROUPED, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "original_max_position_embeddings": CONTEXT},
        PHI3_VOCABULARY,
        templates.PHI3,
        ("<|endoftext|>", "<|assistant|>", "<|end|>"),
        "<|endoftext|>",
    ),
    "tiny-qwen3": Family(
        "qwen3",
        {**GROUPED, "head_dim": 32, "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_theta": 1e6},
        QWEN_VOCABULARY,
        templates.QWEN3,
        ("<|im_end|>", "<|endoftext|>"),
        "<|im_end|>",
        jinja=True,
        rate=1e-2,
    ),
    "tiny-gemma3": Family(
        "gemma3_text",
        {
            **GROUPED,
            "num_hidden_layers": 6,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
            "sliding_window": 128,
            "sliding_window_pattern": 6,
        },
        GEMMA_VOCABULARY,
        templates.GEMMA,
        ("<eos>", "<end_of_turn>"),
        "<eos>",
        system=False,
        jinja=True,
    ),
}
