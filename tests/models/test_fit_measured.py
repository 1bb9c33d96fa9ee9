"""The estimate's weights and keys and values against what the real engines hold, to the byte, for every tiny family."""

import re
from collections import deque
from pathlib import Path

import pytest

from llmctl.domain import EngineSpec
from llmctl.models import gguf_header, safetensors_header
from llmctl.models.checkpoint import SLIDING, inspect, layer_types
from llmctl.models.fit import ROTATING, estimate, kv_bytes

FOLDERS = ("tiny-llama", "tiny-qwen2", "tiny-mistral", "tiny-phi", "tiny-phi3", "tiny-qwen3", "tiny-gemma3")
GGUFS = (
    "tiny-llama-gguf", "tiny-qwen2-gguf", "tiny-phi-gguf", "tiny-phi3-gguf", "tiny-qwen3-gguf", "tiny-gemma3-gguf",
    "tiny-llama-gguf-q8_0", "tiny-qwen2-gguf-q8_0",
)  # fmt: skip
PARALLEL = 3
CHUNK = 64
CONTEXTS = (192, 640)


def spec(engine: str, path: Path, context: int) -> EngineSpec:
    found = inspect(path)
    return EngineSpec(engine, "m", str(path), found.format, context=context, parallel=PARALLEL, device="cpu", threads=1)


def silent(stage: str, done: int, total: int) -> None:
    pass


def fill(engine, context):
    """Fill PARALLEL sequences with prompts in whole chunks, as long as the context."""
    for sequence in [engine.open() for _ in range(PARALLEL)]:
        for _ in range(0, context, CHUNK):
            engine.prefill(sequence, [5 + n for n in range(CHUNK)]).argmax()


@pytest.mark.parametrize("name", FOLDERS)
def test_weights_of_a_folder_are_its_tensors(tiny_models, name):
    headers = safetensors_header.read_folder(tiny_models[name])
    stored = sum(tensor.bytes for header in headers for tensor in header.tensors.values())
    assert estimate(inspect(tiny_models[name]), 256, 1, "torch").weights == stored


@pytest.mark.parametrize("name", GGUFS)
def test_weights_of_a_gguf_are_its_tensors(tiny_models, name):
    stored = sum(tensor.bytes or 0 for tensor in gguf_header.read(tiny_models[name]).tensors)
    assert estimate(inspect(tiny_models[name]), 256, 1, "llamacpp").weights == stored


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_torch_holds_what_was_estimated(tiny_models, name, context):
    from llmctl.engines.torch import load_steps

    engine = load_steps(spec("torch", tiny_models[name], context), silent)
    fill(engine, context)
    found = inspect(tiny_models[name])
    assert engine._cache.bytes == kv_bytes(found, context, PARALLEL, "torch")
    assert engine.identity.memory_bytes == estimate(found, context, PARALLEL, "torch").weights


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_mlx_holds_what_was_estimated(tiny_models, name, context):
    from llmctl.engines.mlx import load_steps

    engine = load_steps(spec("mlx", tiny_models[name], context), silent)
    assert engine.prefill_chunk == CHUNK
    fill(engine, context)
    found = inspect(tiny_models[name])
    assert engine.held == kv_bytes(found, context, PARALLEL, "mlx")
    assert engine.identity.memory_bytes == estimate(found, context, PARALLEL, "mlx").weights


@pytest.mark.parametrize("name", GGUFS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_llamacpp_holds_what_was_estimated(tiny_models, monkeypatch, name, context):
    """By its own log: cells, layers and sequences of each cache exactly, bytes to 0.01 MiB."""
    from llmctl.engines.llamacpp import load_steps
    from llmctl.engines.llamacpp_library import open_library

    monkeypatch.setattr(open_library(), "log", deque[str](maxlen=10_000))
    engine = load_steps(spec("llamacpp", tiny_models[name], context), silent)
    pattern = r"llama_kv_cache: size = +([\d.]+) MiB \( *(\d+) cells, +(\d+) layers, +(\d+)/"
    caches = [match for line in open_library().log if (match := re.match(pattern, line))]
    weights = engine.identity.memory_bytes
    engine.close()
    found = inspect(tiny_models[name])
    assert {int(match[2]) for match in caches} == {-(-context // 256) * 256}
    assert {int(match[4]) for match in caches} == {PARALLEL}
    assert sum(int(match[3]) for match in caches) == found.layers
    held, estimated = sum(float(match[1]) for match in caches), kv_bytes(found, context, PARALLEL, "llamacpp")
    assert abs(held - estimated / 2**20) < 0.005 * len(caches) + 1e-9
    assert weights == estimate(found, context, PARALLEL, "llamacpp").weights


SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 64, "vocab_size": 300, "sliding_window": 32, "max_position_embeddings": 512,
}  # fmt: skip


@pytest.mark.parametrize("architecture", sorted(ROTATING - {"gemma3"}))
def test_families_that_rotate_do_so_in_mlx_lm(architecture):
    """The layers that mlx-lm bounds are those that our rule for the family calls sliding."""
    from importlib import import_module

    from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache

    module = import_module(f"mlx_lm.models.{architecture}")
    model = module.Model(module.ModelArgs.from_dict({**SHAPE, "model_type": architecture}))
    bounded = [isinstance(cache, RotatingKVCache) for cache in make_prompt_cache(model)]
    assert bounded == [kind == SLIDING for kind in layer_types(architecture, 32, None, [2] * 8)]
