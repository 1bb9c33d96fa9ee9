"""The families of the support matrix that the other tests do without: mixtures of experts, gemma2 and gpt-oss."""

from __future__ import annotations

from .. import templates
from ..families import (
    CONTEXT,
    GEMMA_VOCABULARY,
    GROUPED,
    LLAMA_VOCABULARY,
    QWEN_VOCABULARY,
    Family,
)  # fmt: skip

EXPERTS = {"num_hidden_layers": 2, "num_experts_per_tok": 2}
QWEN_ENDS = ("<|im_end|>", "<|endoftext|>")

FAMILIES = {
    "tiny-mixtral": Family(
        "mixtral",
        {
            **GROUPED,
            **EXPERTS,
            "num_local_experts": 4,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "sliding_window": None,
        },
        LLAMA_VOCABULARY,
        templates.MISTRAL,
        ("</s>",),
        "</s>",
        system=False,
    ),
    "tiny-qwen2-moe": Family(
        "qwen2_moe",
        {
            **GROUPED,
            **EXPERTS,
            "num_experts": 4,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
        },
        QWEN_VOCABULARY,
        templates.QWEN,
        QWEN_ENDS,
        "<|im_end|>",
    ),
    "tiny-qwen3-moe": Family(
        "qwen3_moe",
        {
            **GROUPED,
            **EXPERTS,
            "head_dim": 32,
            "num_experts": 4,
            "moe_intermediate_size": 128,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
        },
        QWEN_VOCABULARY,
        templates.QWEN3,
        QWEN_ENDS,
        "<|im_end|>",
        jinja=True,
        rate=6e-3,
    ),
    "tiny-gemma2": Family(
        "gemma2",
        {
            **GROUPED,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "sliding_window": 64,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "hidden_activation": "gelu_pytorch_tanh",
        },
        GEMMA_VOCABULARY,
        templates.GEMMA,
        ("<eos>", "<end_of_turn>"),
        "<eos>",
        system=False,
    ),
    "tiny-gpt-oss": Family(
        "gpt_oss",
        {
            **GROUPED,
            **EXPERTS,
            "intermediate_size": 128,
            "head_dim": 32,
            "num_local_experts": 4,
            "sliding_window": 64,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 2.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": CONTEXT // 2,
            },
        },
        QWEN_VOCABULARY,
        templates.QWEN3,
        QWEN_ENDS,
        "<|im_end|>",
        jinja=True,
    ),
}
