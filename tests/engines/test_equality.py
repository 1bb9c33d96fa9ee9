"""Greedy decoding with a KV cache equals a full recompute without one, and a batch equals each request alone.

Token for token, in float32. The reference is transformers' own eager attention over the whole sequence, so that cache,
masks, positions and windows of the engine are checked against code that has none of them.
"""

import json
import random
import shutil

import pytest

from llmctl.domain import Chunk, EngineSpec, Failure, GenerateRequest, Sampling
from llmctl.engines import adapter
from llmctl.engines.batch import BatchEngine

MODELS = [
    "tiny-llama", "tiny-qwen2", "tiny-mistral", "tiny-phi", "tiny-phi3", "tiny-qwen3", "tiny-gemma3", "tiny-llama-spm",
]  # fmt: skip
GREEDY = Sampling(temperature=0)
TEXT = "def main(argv):\n    import os, sys  # the first thing that a program does\n    return os.path.join(argv[0])\n"
NEW = 24

pytestmark = pytest.mark.models


def steps(engine, path, dtype="float32"):
    """The StepEngine of an adapter."""
    spec = EngineSpec(engine, path.name, str(path), "safetensors", context=512, parallel=4, device="cpu", dtype=dtype)
    return adapter(engine).load_steps(spec, lambda *_: None)


def answers(step_engine, requests, *, shuffle=None):
    """Run requests together, joining at random steps; {(id, index): [token ids]} read from their log-probabilities."""
    events, waiting = [], list(requests)
    engine = BatchEngine(step_engine, events.append)
    if shuffle:
        shuffle.shuffle(waiting)
    while waiting or engine.step():
        while waiting and (shuffle is None or shuffle.random() < 0.5):
            engine.submit(waiting.pop(0))
    assert not [e for e in events if isinstance(e, Failure)]
    ids = {}
    for chunk in (e for e in events if isinstance(e, Chunk)):
        ids.setdefault((chunk.id, chunk.index), []).extend(p.id for p in chunk.logprobs)
    return ids


def request(id, prompt, sampling=GREEDY, **fields):
    fields = {"max_tokens": NEW, "ignore_eos": True, "logprobs": 0, **fields}
    return GenerateRequest(id, prompt=tuple(prompt), sampling=sampling, **fields)


def prompts(tokenizer, lengths=(1, 5, 40, 100)):
    """Prompts of these many tokens, no two alike."""
    ids = tokenizer.encode(TEXT * 8)
    return {f"p{n}": ids[i : i + n] for i, n in enumerate(lengths)}


def recomputed(path, prompt, count):
    """Greedy tokens by running the whole sequence anew for each, and the smallest gap between the top two logits."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    ids, gap = list(prompt), float("inf")
    with torch.inference_mode():
        for _ in range(count):
            top = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
            gap = min(gap, float(top.values[0] - top.values[1]))
            ids.append(int(top.indices[0]))
    assert gap > 1e-5, "the reference itself is a tie: choose another prompt"
    return ids[len(prompt) :]


def windowed(path, folder, window):
    """A copy of a checkpoint with another sliding window."""
    copy = folder / f"{path.name}-window-{window}"
    shutil.copytree(path, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {"sliding_window": window}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("name", MODELS)
def test_torch_with_cache_equals_full_recompute(tiny_models, name):
    engine = steps("torch", tiny_models[name])
    for id, prompt in prompts(engine.tokenizer).items():
        assert answers(engine, [request(id, prompt)])[id, 0] == recomputed(tiny_models[name], prompt, NEW)


@pytest.mark.parametrize("name", MODELS)
def test_torch_prompts_that_begin_as_others_did_equal_full_recompute(tiny_models, tmp_path, name):
    """Shorter, longer and branching off, of ended sequences and of running ones; with a short window where one is."""
    path = windowed(tiny_models[name], tmp_path, 16) if name in ("tiny-mistral", "tiny-gemma3") else tiny_models[name]
    engine = steps("torch", path)
    first = prompts(engine.tokenizer, (100,))["p100"]
    work = {"longer": first + first[7:30], "branch": first[:60] + first[3:40], "shorter": first[:50]}
    answers(engine, [request("first", first)])
    expected = {(id, 0): recomputed(path, prompt, NEW) for id, prompt in work.items()}
    reused, reuse = [], engine.reuse
    engine.reuse = lambda seq, prompt: reused.append(reuse(seq, prompt)) or reused[-1]
    for _ in range(2):
        assert answers(engine, [request(id, prompt) for id, prompt in work.items()]) == expected
    assert all(same >= 49 for same in reused)


@pytest.mark.parametrize("name", ["tiny-mistral", "tiny-gemma3", "tiny-phi3"])
@pytest.mark.parametrize("chunk", [7, 256])
def test_torch_sliding_window_shorter_than_the_prompt(tiny_models, tmp_path, name, chunk):
    path = windowed(tiny_models[name], tmp_path, 16)
    engine = steps("torch", path)
    engine.prefill_chunk = chunk
    work = prompts(engine.tokenizer, (5, 60))
    together = answers(engine, [request(id, prompt) for id, prompt in work.items()])
    assert together == {(id, 0): recomputed(path, prompt, NEW) for id, prompt in work.items()}


@pytest.mark.parametrize("name", MODELS)
def test_torch_chunked_prefill_equals_one_piece(tiny_models, name):
    engine = steps("torch", tiny_models[name])
    prompt = prompts(engine.tokenizer, (100,))["p100"]
    whole = answers(engine, [request("a", prompt)])
    for chunk in (1, 13, 64):
        engine.prefill_chunk = chunk
        assert answers(engine, [request("a", prompt)]) == whole


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=11, top_p=0.95, repetition_penalty=1.1)])
def test_torch_batch_equals_alone_with_requests_joining_and_leaving(tiny_models, name, sampling):
    engine = steps("torch", tiny_models[name])
    engine.prefill_chunk = 32
    work = prompts(engine.tokenizer, (1, 7, 20, 33, 64, 100))
    requests = [request(id, p, sampling, max_tokens=6 + 5 * i) for i, (id, p) in enumerate(work.items())]
    alone = {}
    for one in requests:
        alone |= answers(engine, [one])
    for seed in (1, 2):
        assert answers(engine, requests, shuffle=random.Random(seed)) == alone


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3"])
def test_torch_in_bfloat16_differs_only_where_the_top_logits_are_close(tiny_models, name):
    import torch
    from transformers import AutoModelForCausalLM

    engine = steps("torch", tiny_models[name], "bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tiny_models[name], dtype=torch.bfloat16).eval()
    work = prompts(engine.tokenizer)
    together = answers(engine, [request(id, prompt) for id, prompt in work.items()])
    for id, prompt in work.items():
        ids = torch.tensor([prompt + together[id, 0]])
        with torch.inference_mode():
            logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
        assert (logits.max(dim=1).values - chosen).max() < 0.05 * logits.std()


def test_torch_n_sequences_are_those_of_their_streams(tiny_models):
    engine = steps("torch", tiny_models["tiny-qwen2"])
    work = prompts(engine.tokenizer, (20, 50))
    many = [request(id, p, Sampling(seed=3), n=4) for id, p in work.items()]
    found = answers(engine, many, shuffle=random.Random(0))
    assert len({tuple(ids) for ids in found.values()}) == 8
    assert found == answers(engine, many[:1]) | answers(engine, many[1:])


def test_torch_a_poisoned_sequence_leaves_nothing_behind(tiny_models):
    """Rows are reused: NaN keys of a dead sequence must not reach another one through a mask."""
    import torch

    engine = steps("torch", tiny_models["tiny-llama"])
    work = prompts(engine.tokenizer, (30, 45, 10))
    fresh = answers(engine, [request(id, p) for id, p in work.items()])
    keep = engine.open()
    engine.prefill(keep, [1, 2, 3])
    poisoned = engine.open()
    engine.prefill(poisoned, work["p45"])
    with torch.inference_mode():
        for tensor in engine._cache._tensors():
            tensor[engine._cache.row(poisoned), :, :45] = torch.nan
    engine.free(keep)  # the poisoned row moves
    other = engine.open()
    engine.prefill(other, [5, 6])
    engine.free(poisoned)
    assert answers(engine, [request(id, p) for id, p in work.items()]) == fresh
