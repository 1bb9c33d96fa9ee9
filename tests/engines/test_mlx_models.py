"""Models that mlx-lm computes otherwise than transformers, or does not load as that writes them: here the same.


In float32, against transformers' own eager attention, and in a batch; the checkpoints have random weights."""

import pytest

from llmctl.domain import EngineSpec
from llmctl.engines import adapter
from llmctl.engines.mlx_load import filled
from llmctl.errors import Unsupported

pytest.importorskip("mlx_lm")
torch = pytest.importorskip("torch")

TOKENS = 40
SHAPE = {
    "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "initializer_range": 0.2,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 150000.0, "factor": 2.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 256,
}  # fmt: skip
MODELS = {
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "mixtral with a window": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}),
    "qwen2-moe": ("qwen2_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
                                "shared_expert_intermediate_size": 48}),
    "qwen3-moe": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
                                "head_dim": 32}),
    "gpt-oss": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "sliding_window": 16,
                            "rope_parameters": YARN}),
    "gemma2": ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "num_hidden_layers": 12, "sliding_window": 16}),
    "gemma3 of few layers": ("gemma3_text", {"head_dim": 16, "num_hidden_layers": 4, "sliding_window": 16}),
    "gemma3 of another pattern": (
        "gemma3_text",
        {"head_dim": 16, "num_hidden_layers": 4, "sliding_window": 16,
         "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "qwen2 with late windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}),
}  # fmt: skip
RECURRENT = {"mamba": ("mamba", {"state_size": 8})}


def checkpoint(folder, tiny_models, name, **saved):
    """A random checkpoint with a tokenizer of as many tokens."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model_type, fields = (MODELS | RECURRENT)[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**{**SHAPE, **fields}))
    for parameter in model.parameters():  # norms and sinks too
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, **saved)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((tiny_models["tiny-llama"] / file).read_bytes())
    return model.eval()


def load(folder, **fields):
    fields = {"context": 256, "parallel": 2, "device": "cpu", "dtype": "float32", **fields}
    return adapter("mlx").load_steps(EngineSpec("mlx", "m", str(folder), "safetensors", **fields), lambda *_: None)


def agree(engine, model):
    """The logits after each of TOKENS tokens are transformers', of a sequence beside a shorter one."""
    ids = [(7919 * i + 11) % SHAPE["vocab_size"] for i in range(TOKENS)]
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    one, other = engine.open(), engine.open()
    logits = engine.forward({other: ids[5:12], one: ids}, {one})
    found = [logits.row(1 + i) for i in range(TOKENS)]
    assert abs(found - expected).max() < 2e-4 * abs(expected).max()


@pytest.mark.models
@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_transformers_computes(tiny_models, tmp_path, name):
    model = checkpoint(tmp_path, tiny_models, name)
    engine = load(tmp_path)
    assert engine.together
    agree(engine, model)
    assert engine.identity.context == (64 if name == "qwen2 with late windows" else 256)


@pytest.mark.models
@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "qwen3-moe"])
def test_experts_in_one_tensor(tiny_models, tmp_path, name):
    model = checkpoint(tmp_path, tiny_models, name, save_original_format=False)
    agree(load(tmp_path), model)


@pytest.mark.models
def test_a_recurrent_model_is_computed_one_by_one(tiny_models, tmp_path):
    """Its state can be copied but not joined with padding, nor cut; only a whole beginning is reused."""
    model = checkpoint(tmp_path, tiny_models, "mamba")
    engine = load(tmp_path)
    assert (engine.identity.load_path, hasattr(engine, "rewind")) == ("one-by-one", False)
    agree(engine, model)
    one = engine.open()
    ids = [(7919 * i + 11) % SHAPE["vocab_size"] for i in range(TOKENS)]
    engine.prefill(one, ids)
    engine.free(one)
    assert engine.reuse(engine.open(), ids[:30]) == 0
    again = engine.open()
    assert engine.reuse(again, [*ids, 5]) == TOKENS
    with torch.inference_mode():
        expected = model(torch.tensor([[*ids, 5]])).logits[0, -1].numpy()
    assert abs(engine.prefill(again, [5]).row(0) - expected).max() < 2e-4 * abs(expected).max()


def test_layers_in_no_pattern_are_refused():
    kinds = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    with pytest.raises(Unsupported, match="no pattern"):
        filled({"model_type": "gemma3_text", **SHAPE, "num_hidden_layers": 4, "layer_types": kinds})
