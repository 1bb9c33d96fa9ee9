"""Memory estimates to the byte, and the choice of an engine."""

from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.errors import Unsupported
from llmctl.models.checkpoint import FULL, SLIDING, Checkpoint
from llmctl.models.choice import READS, choose_engine, format_for
from llmctl.models.fit import Room, compute_bytes, estimate, kv_bytes, largest_context

QWEN2_05B = Checkpoint(
    path=Path("qwen2-0.5b"),
    format="safetensors",
    architecture="qwen2",
    layers=24,
    heads=14,
    kv_heads=2,
    head_dim=64,
    hidden=896,
    vocab=151936,
    context=32768,
    sliding_window=None,
    layer_types=(FULL,) * 24,
    kv_widths=(256,) * 24,
    weights_bytes=988_065_664,
    parameters=494_032_832,
    dtype="bfloat16",
    quantization=None,
    tokenizer="tokenizer.json",
    has_chat_template=True,
    eos_ids=(151645,),
)


def test_kv_of_llamacpp_is_what_it_allots():
    # measured: the resident memory grew by 353 MB from 4 × 1,000 tokens to 4 × 8,192
    small, large = (kv_bytes(QWEN2_05B, context, 4, "llamacpp") for context in (1000, 8192))
    assert small == 2 * 24 * 256 * 4 * 1024
    assert large - small == 2 * 24 * 256 * 4 * (8192 - 1024)


def test_kv_of_torch_doubles():
    assert kv_bytes(QWEN2_05B, 300, 3, "torch") == 2 * 24 * 256 * 4 * 512
    assert kv_bytes(QWEN2_05B, 300, 3, "torch", "float32") == 4 * 24 * 256 * 4 * 512


def test_context_ends_where_the_model_does():
    assert kv_bytes(QWEN2_05B, 10**6, 1, "mlx") == kv_bytes(QWEN2_05B, 32768, 1, "mlx")
    assert kv_bytes(replace(QWEN2_05B, context=0), 10**6, 1, "mlx") == 2 * 24 * 256 * (10**6 + 192)


def test_layers_without_keys_cost_nothing():
    mixed = replace(QWEN2_05B, kv_widths=(0, 256) * 12)
    assert kv_bytes(mixed, 512, 4, "llamacpp") * 2 == kv_bytes(QWEN2_05B, 512, 4, "llamacpp")


def test_weights_in_another_dtype():
    assert estimate(QWEN2_05B, 512, 1, "torch").weights == 988_065_664
    assert estimate(QWEN2_05B, 512, 1, "torch", "float32").weights == 4 * 494_032_832
    assert estimate(replace(QWEN2_05B, quantization="4bit"), 512, 1, "mlx", "float16").weights == 988_065_664
    assert estimate(QWEN2_05B, 512, 1, "llamacpp", "float32").weights == 988_065_664


def test_total_is_the_sum():
    fit = estimate(QWEN2_05B, 4096, 4, "llamacpp")
    assert fit.total == fit.weights + fit.kv + fit.compute + fit.process
    assert 0 < fit.compute < 10**8 and 0 < fit.process < 10**8


def test_logits_of_a_chunk_count_beyond_the_cpu():
    cpu, gpu = (compute_bytes(QWEN2_05B, 4096, 4, "llamacpp", backend=backend) for backend in ("cpu", "cuda"))
    assert gpu - cpu == 4 * QWEN2_05B.vocab * (256 - 4)


def test_scores_computed_by_hand_grow_with_the_context():
    capped = replace(QWEN2_05B, architecture="gemma2")
    small, large = (compute_bytes(capped, context, 1, "torch") for context in (1024, 32768))
    assert large - small == (2 + 12 * 14) * 256 * (32768 - 1024)


def test_sliding_layers_of_mlx_hold_their_window_where_the_family_rotates():
    slid = replace(QWEN2_05B, architecture="gemma3_text", sliding_window=512, layer_types=(SLIDING, FULL) * 12)
    full, windows = 12 * 256 * 4096, 12 * 256 * (512 - 1 + 64)
    assert kv_bytes(slid, 4096, 3, "mlx") == 2 * 3 * (full + windows)
    assert kv_bytes(slid, 4096, 3, "mlx", backend="metal") == 2 * 3 * (full + 12 * 256 * (512 - 1 + 512))
    assert kv_bytes(slid, 300, 3, "mlx") == 2 * 3 * 24 * 256 * 512
    assert kv_bytes(replace(slid, architecture="mistral"), 4096, 3, "mlx") == 2 * 3 * 2 * windows
    assert kv_bytes(slid, 4096, 4, "torch") == 2 * 4 * 2 * full


@pytest.mark.parametrize("engine", ["llamacpp", "torch", "mlx"])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_the_estimate_never_falls_as_context_or_parallel_grow(engine, dtype):
    last = 0
    for context in (1, 255, 256, 257, 1000, 1024, 1025, 32768):
        for parallel in (1, 2, 3, 5):
            assert estimate(QWEN2_05B, context, parallel, engine, dtype).total >= last
            last = estimate(QWEN2_05B, context, 1, engine, dtype).total


@pytest.mark.parametrize("engine", ["llamacpp", "torch", "mlx"])
def test_largest_context_is_the_last_that_fits(engine):
    def needed(context):
        return estimate(QWEN2_05B, context, 4, engine).total

    for available in range(needed(1) - 1, needed(32768) + 10**8, 97_000_001):
        found = largest_context(needed, available, 32768)
        assert found == 0 or needed(found) <= available
        assert found == 32768 or needed(found + 1) > available
    assert largest_context(needed, needed(1) - 1, 32768) == 0
    assert largest_context(needed, 10**12, 32768) == 32768


def test_room_is_the_smaller_of_free_and_what_the_budget_leaves():
    assert Room(free=10, budget=100, reserved=20).available == 10
    assert Room(free=1000, budget=100, reserved=20).available == 80
    assert Room(free=1000, budget=100, reserved=120).available == -20


@pytest.mark.parametrize(
    ("backend", "formats", "engine"),
    [
        ("cpu", {"gguf"}, "llamacpp"),
        ("cpu", {"gguf", "safetensors"}, "llamacpp"),
        ("cpu", {"safetensors"}, "torch"),
        ("cuda", {"gguf"}, "llamacpp"),
        ("cuda", {"gguf", "safetensors"}, "torch"),
        ("metal", {"gguf"}, "llamacpp"),
        ("metal", {"safetensors"}, "mlx"),
        ("metal", {"mlx", "gguf"}, "mlx"),
        ("cpu", {"script"}, "scripted"),
        ("metal", {"script"}, "scripted"),
    ],
)
def test_default_engine(backend, formats, engine):
    taken, why, why_not = choose_engine(backend, formats)
    assert taken == engine
    assert why
    assert set(why_not) == set(READS) - {engine}


def test_requested_engine_is_taken_if_it_can():
    assert choose_engine("cpu", ["gguf", "safetensors"], "torch").engine == "torch"
    assert choose_engine("cpu", ["mlx"], "mlx").engine == "mlx"  # correct, if slow: only when asked for


@pytest.mark.parametrize(
    ("backend", "formats", "requested", "why"),
    [
        ("cpu", ["mlx"], "auto", "torch: reads safetensors, there is mlx"),
        ("cpu", [], "auto", "there is nothing"),
        ("cuda", ["safetensors"], "mlx", "mlx: does not run on cuda"),
        ("cpu", ["safetensors"], "llamacpp", "llamacpp: reads gguf, there is safetensors"),
        ("cpu", ["gguf"], "vllm", "vllm: no such engine"),
    ],
)
def test_no_engine_says_why(backend, formats, requested, why):
    with pytest.raises(Unsupported, match=why) as caught:
        choose_engine(backend, formats, requested)
    assert caught.value.hint


def test_format_for():
    assert format_for("mlx", {"safetensors", "mlx"}) == "mlx"
    assert format_for("mlx", {"safetensors"}) == "safetensors"
    assert format_for("torch", {"gguf"}) is None
