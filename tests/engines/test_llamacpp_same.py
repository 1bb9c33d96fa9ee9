"""Where llama.cpp and torch were seen to differ: on trained weights by half precision alone, and by a scale that a GGUF
file cannot tell."""

import json
import shutil

import numpy as np
import pytest

from llmctl.domain import EngineSpec
from llmctl.engines import llamacpp

pytest.importorskip("xllamacpp")
pytest.importorskip("torch")
pytestmark = pytest.mark.models

HALF = 0.06  # of logits that spread over 1.6 to 2.3: what rounding the weights, keys and values to 11 bits does


def logits(engine, path, ids):
    """After every token: float32, [tokens, vocab]."""
    from llmctl.engines import torch

    adapter, format = (llamacpp, "gguf") if engine == "llamacpp" else (torch, "safetensors")
    spec = EngineSpec(engine, "m", str(path), format, context=512, parallel=1, device="cpu", dtype="float32", threads=1)
    steps = adapter.load_steps(spec, lambda *_: None)
    found = np.asarray(steps.prefill_all(steps.open(), ids))
    steps.close()
    return found


@pytest.fixture(scope="module")
def ids():
    return [(37 * i) % 400 + 20 for i in range(40)]


@pytest.mark.parametrize("name", ["tiny-qwen3", "tiny-gemma3"])
def test_logits_are_those_of_torch_to_half_precision(tiny_models, ids, name):
    ours, theirs = logits("llamacpp", tiny_models[f"{name}-gguf"], ids), logits("torch", tiny_models[name], ids)
    assert np.abs(ours - theirs).max() < HALF
    second, first = np.sort(theirs, axis=1)[:, -2:].T
    clear = first - second > 2 * HALF
    assert clear.mean() > 0.5
    assert (ours.argmax(1) == theirs.argmax(1))[clear].all()


def test_a_gemma_whose_scale_is_not_that_of_its_heads_is_another_model_as_gguf(tiny_models, ids, tmp_path):
    """`query_pre_attn_scalar` is no key of GGUF: llama.cpp takes the heads' width, as in all published sizes."""
    ours, path = logits("llamacpp", tiny_models["tiny-gemma3-gguf"], ids), tmp_path / "gemma"
    shutil.copytree(tiny_models["tiny-gemma3"], path)
    config = json.loads((path / "config.json").read_text())
    assert config["query_pre_attn_scalar"] == config["head_dim"]
    (path / "config.json").write_text(json.dumps({**config, "query_pre_attn_scalar": 8 * config["head_dim"]}))
    assert np.abs(ours - logits("torch", path, ids)).max() > 10 * HALF
