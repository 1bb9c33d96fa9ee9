"""The MLX engine when something is wrong or there is too little memory: typed errors, and the others go on."""

import shutil
import sys

import pytest

from llmctl.domain import Chunk, EngineSpec, Failure, GenerateRequest, Sampling
from llmctl.engines import adapter
from llmctl.engines.batch import BatchEngine
from llmctl.errors import LlmctlError, Unsupported
from tests.engines.test_torch_faults import BAD

pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.models
ENGINE = adapter("mlx")
GREEDY = Sampling(temperature=0)


def spec(path, **fields):
    fields = {"context": 512, "device": "cpu", "dtype": "float32", **fields}
    return EngineSpec("mlx", path.name, str(path), "safetensors", **fields)


SAID = {
    "a missing shard": "model-00002-of-00002.safetensors is missing",
    "a torn index": "index.json cannot be read",
    "missing weights": "Missing 9 parameters: model.layers.1.",
    "more heads": "Expected shape",
    "heads that do not divide": "not a multiple of the number of",
    "no heads": "config.json cannot be used",
    "heads of text": "'num_attention_heads' expected int",
    "a layer too few": "Received 9 parameters not in model: model.layers.3.",
    "another's tokenizer": "its tokenizer has 1224 tokens, the model 1024",
    "NaN in one key": "not finite",
}


@pytest.mark.parametrize("case", BAD)
def test_a_checkpoint_that_is_not_what_it_says_is_refused(tiny_models, tmp_path, case):
    change, _, _ = BAD[case]
    path = shutil.copytree(tiny_models["tiny-llama"], tmp_path / "model")
    change(path)
    with pytest.raises(LlmctlError, match=SAID.get(case, "model")) as caught:
        ENGINE.check(spec(path))
        ENGINE.load(spec(path), lambda *_: None, print)
    assert caught.value.code in ("load_failed", "unsupported", "nonfinite_logits")
    assert "model" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_library_that_is_not_there_is_named_with_its_extra(tiny_models, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    monkeypatch.setitem(sys.modules, "mlx_lm.utils", None)
    with pytest.raises(Unsupported, match="cannot be imported here") as caught:
        ENGINE.check(spec(tiny_models["tiny-llama"]))
    assert caught.value.hint == "pip install 'llmctl-fleet[mlx]'"


def test_keys_and_values_that_cannot_be_quantized_are_refused(tiny_models, tmp_path):
    """Heads of 16 numbers, where a group has 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=1024, **shape)).to(torch.float32).save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_models["tiny-llama"] / file, tmp_path)
    with pytest.raises(Unsupported, match="8 bits need heads whose size is a multiple of 32, here 16"):
        ENGINE.load_steps(spec(tmp_path, cache_bits=8), lambda *_: None)


TOKEN = 4 * 2 * 2 * 32 * 4
"""Bytes of a token's keys and values in tiny-llama: layers × both × heads × size × float32."""


def limited(tiny_models, tokens):
    """An engine with room for so many tokens."""
    return ENGINE.load_steps(spec(tiny_models["tiny-llama"], context=1024, cache_bytes=tokens * TOKEN), lambda *_: None)


def run(engine, *requests):
    """Run them together; {id: its tokens, or the code of its failure}, and the most bytes that were held."""
    events, most = [], 0
    batch = BatchEngine(engine, events.append)
    for id, prompt, new in requests:
        batch.submit(GenerateRequest(id, prompt=tuple(prompt), sampling=GREEDY, max_tokens=new, ignore_eos=True))
    while batch.step():
        most = max(most, engine.held)
    ended = {e.id: e.error["code"] for e in events if isinstance(e, Failure)}
    return ended | {e.id: e.usage.completion for e in events if isinstance(e, Chunk) and e.usage}, most


def text(start, count):
    return [3 + (start * 31 + n * 17) % 900 for n in range(count)]


def test_f14_a_request_over_the_cache_cap_ends_alone(tiny_models):
    engine = limited(tiny_models, 900)
    found, most = run(engine, ("a", text(1, 20), 10), ("b", text(3, 30), 10), ("long", text(2, 500), 10))
    assert found == {"a": 10, "b": 10, "long": "out_of_memory"}
    assert most <= 900 * TOKEN
    assert run(engine, ("long", text(2, 500), 10))[0] == {"long": 10}  # alone it has room


def test_f14_kept_beginnings_go_first_under_the_cache_cap(tiny_models):
    engine = limited(tiny_models, 1024)
    for n in range(6):
        assert run(engine, ("a", text(n, 100), 4))[0] == {"a": 4}
        assert 0 < engine._prefixes.bytes <= 1024 * TOKEN
    seq = engine.open()
    assert engine.reuse(seq, text(5, 100)) == 99
    assert engine.reuse(engine.open(), text(0, 100)) == 0  # given up for later ones
    engine.free(seq)
    assert run(engine, ("big", text(50, 700), 4))[0] == {"big": 4}


def test_f14_a_pass_that_runs_out_of_memory_leaves_the_sequences_as_they_were(tiny_models):
    """The model fails in the middle of a pass; the same pass then gives what it would have given."""
    engine = ENGINE.load_steps(spec(tiny_models["tiny-llama"]), lambda *_: None)
    model = engine._models[None]
    one, other = engine.open(), engine.open()
    engine.forward({one: text(1, 30), other: text(2, 9)})

    def full(*arguments, **named):
        model(*arguments, **named)
        raise RuntimeError("[malloc] Unable to allocate 1 bytes: out of memory")

    engine._models[None] = full
    with pytest.raises(RuntimeError):
        engine.step({one: 5, other: 6})
    engine._models[None] = model
    found = engine.step({one: 5, other: 6}).row(0)
    engine.free(one)
    assert engine._prefixes.find(None, text(1, 30)) == (None, 0)  # who knows what it holds
    alone = engine.open()
    engine.prefill(alone, text(1, 30))
    assert abs(engine.step({alone: 5}).row(0) - found).max() < 1e-4 * abs(found).max()


def test_what_is_not_finite_is_not_reused(tiny_models):
    import mlx.core as mx

    engine = ENGINE.load_steps(spec(tiny_models["tiny-llama"]), lambda *_: None)
    spoilt, sound = engine.open(), engine.open()
    engine.prefill(spoilt, text(1, 30))
    engine.prefill(sound, text(2, 30))
    engine._batches.group(spoilt).caches[2].keys[0, 0, 4] = mx.nan
    assert engine.reuse(engine.open(), text(1, 30)) == 0  # of one that runs
    engine.free(spoilt)
    engine.free(sound)
    assert engine.reuse(engine.open(), text(1, 30)) == 0
    assert engine.reuse(engine.open(), text(2, 30)) == 29
