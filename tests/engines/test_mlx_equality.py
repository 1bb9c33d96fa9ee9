"""Greedy decoding on MLX, in float32, token for token: with cache = full recompute, in a batch = alone, with a reused
beginning = without, speculatively = plainly. The reference is transformers' eager attention over the whole sequence."""

import random

import pytest

from llmctl.domain import Sampling
from tests.engines.test_equality import GREEDY, MODELS, NEW, answers, prompts, recomputed, request, steps, windowed

pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.models


@pytest.mark.parametrize("name", MODELS)
def test_with_cache_and_in_a_batch_equals_full_recompute(tiny_models, name):
    engine = steps("mlx", tiny_models[name])
    assert engine.together
    work = prompts(engine.tokenizer, (1, 7, 100))
    together = answers(engine, [request(id, prompt) for id, prompt in work.items()])
    assert together == {(id, 0): recomputed(tiny_models[name], prompt, NEW) for id, prompt in work.items()}


@pytest.mark.parametrize("name", ["tiny-mistral", "tiny-gemma3", "tiny-phi3"])
@pytest.mark.parametrize("chunk", [7, 64])
def test_a_window_shorter_than_the_prompt(tiny_models, tmp_path, name, chunk):
    path = windowed(tiny_models[name], tmp_path, 16)
    engine = steps("mlx", path)
    assert engine.identity.context == 512
    engine.prefill_chunk = chunk
    work = prompts(engine.tokenizer, (5, 60, 23))
    together = answers(engine, [request(id, prompt) for id, prompt in work.items()])
    assert together == {(id, 0): recomputed(path, prompt, NEW) for id, prompt in work.items()}


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-gemma3"])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=11, top_p=0.95, repetition_penalty=1.1)])
def test_batch_equals_alone_with_requests_joining_and_leaving(tiny_models, tmp_path, name, sampling):
    path = windowed(tiny_models[name], tmp_path, 16) if name == "tiny-gemma3" else tiny_models[name]
    engine = steps("mlx", path)
    engine.prefill_chunk = 32
    work = prompts(engine.tokenizer, (1, 7, 20, 33, 64, 100))
    requests = [request(id, p, sampling, max_tokens=6 + 5 * i, n=1 + i % 2) for i, (id, p) in enumerate(work.items())]
    alone = {}
    for one in requests:
        alone |= answers(engine, [one])
        engine.forget()
    for seed in (1, 2):
        assert answers(engine, requests, shuffle=random.Random(seed)) == alone
