"""Greedy decoding on MLX, in float32, token for token: with cache = full recompute, in a batch = alone, with a reused
beginning = without, speculatively = plainly. The reference is transformers' eager attention over the whole sequence."""

import random

import pytest

from llmctl.domain import Chunk, EngineSpec, Failure, Sampling
from llmctl.engines import adapter
from llmctl.engines.batch import BatchEngine
from llmctl.engines.drafts import DraftModel
from tests.engines.test_equality import GREEDY, MODELS, NEW, TEXT, prompts, recomputed, request, windowed

pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.models


def spec(path, dtype="float32", **fields):
    fields = {"context": 512, "parallel": 4, "device": "cpu", "dtype": dtype, **fields}
    return EngineSpec("mlx", path.name, str(path), "safetensors", **fields)


def steps(path):
    return adapter("mlx").load_steps(spec(path), lambda *_: None)


def answers(engine, requests, *, shuffle=None, draft=None):
    """Run requests together, joining at random steps; {(id, index): [token ids]} read from their log-probabilities."""
    events, waiting = [], list(requests)
    batch = BatchEngine(engine, events.append, draft=draft)
    if shuffle:
        shuffle.shuffle(waiting)
    while waiting or batch.step():
        while waiting and (shuffle is None or shuffle.random() < 0.5):
            batch.submit(waiting.pop(0))
    assert not [e for e in events if isinstance(e, Failure)]
    ids = {}
    for chunk in (e for e in events if isinstance(e, Chunk)):
        ids.setdefault((chunk.id, chunk.index), []).extend(p.id for p in chunk.logprobs)
    return ids


@pytest.mark.parametrize("name", MODELS)
def test_with_cache_and_in_a_batch_equals_full_recompute(tiny_models, name):
    engine = steps(tiny_models[name])
    assert engine.together
    work = prompts(engine.tokenizer, (1, 7, 100))
    together = answers(engine, [request(id, prompt) for id, prompt in work.items()])
    assert together == {(id, 0): recomputed(tiny_models[name], prompt, NEW) for id, prompt in work.items()}


@pytest.mark.parametrize("name", ["tiny-mistral", "tiny-gemma3", "tiny-phi3"])
@pytest.mark.parametrize("chunk", [7, 64])
def test_a_window_shorter_than_the_prompt(tiny_models, tmp_path, name, chunk):
    path = windowed(tiny_models[name], tmp_path, 16)
    engine = steps(path)
    assert engine.identity.context == 512
    engine.prefill_chunk = chunk
    work = prompts(engine.tokenizer, (5, 60, 23))
    together = answers(engine, [request(id, prompt) for id, prompt in work.items()])
    assert together == {(id, 0): recomputed(path, prompt, NEW) for id, prompt in work.items()}


@pytest.mark.parametrize(
    ("name", "sampling"),
    [("tiny-gemma3", GREEDY), ("tiny-qwen2", Sampling(seed=11, top_p=0.95, repetition_penalty=1.1))],
)
def test_batch_equals_alone_with_requests_joining_and_leaving(tiny_models, tmp_path, name, sampling):
    path = windowed(tiny_models[name], tmp_path, 16) if name == "tiny-gemma3" else tiny_models[name]
    engine = steps(path)
    engine.prefill_chunk = 32
    work = prompts(engine.tokenizer, (1, 20, 33, 64))
    requests = [request(id, p, sampling, max_tokens=6 + 5 * i, n=1 + i % 2) for i, (id, p) in enumerate(work.items())]
    alone = {}
    for one in requests:
        alone |= answers(engine, [one])
        engine.forget()
    assert answers(engine, requests, shuffle=random.Random(1)) == alone


SHARED = 90


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-mistral", "tiny-gemma3"])
def test_a_reused_beginning_changes_nothing(tiny_models, tmp_path, name):
    """Of an ended sequence, longer or shorter than what is shared, and of one that runs. Both windows are 16 here: what
    went out of them cannot be taken back, so only a whole sequence is reused there."""
    path = windowed(tiny_models[name], tmp_path, 16) if name != "tiny-qwen2" else tiny_models[name]
    engine = steps(path)
    ids = engine.tokenizer.encode(TEXT * 8)
    prompt = ids[:SHARED]
    other = prompt + ids[200:220]
    wanted = {id: recomputed(path, tokens, NEW) for id, tokens in (("a", prompt), ("b", other))}
    assert reused(engine, "a", prompt) == (wanted["a"], 0)
    found, cached = reused(engine, "b", other)
    assert found == wanted["b"]
    assert cached == (SHARED if name == "tiny-qwen2" else 0)
    whole = prompt + wanted["a"][:-1] + ids[300:305]
    assert reused(engine, "c", whole) == (recomputed(path, whole, NEW), SHARED + NEW - 1)
    engine.forget()
    together = answers(engine, [request("a", prompt), request("b", other)], shuffle=random.Random(3))
    assert together == {(id, 0): tokens for id, tokens in wanted.items()}


def reused(engine, id, prompt):
    """The answer, and how many tokens of the prompt were there already."""
    cached = []
    reuse = engine.reuse
    engine.reuse = lambda seq, tokens: cached.append(reuse(seq, tokens)) or cached[-1]
    try:
        return answers(engine, [request(id, prompt)])[id, 0], cached[0]
    finally:
        del engine.reuse


class Wrong:
    """A draft that is right for some tokens, and then not: it knows the answers."""

    def __init__(self, known, right):
        self.known, self.right = known, right

    def propose(self, texts, most):
        found = {}
        for handle, text in texts.items():
            whole = next(known for known in self.known if known[: len(text)] == list(text))
            next_ones = whole[len(text) : len(text) + most[handle]]
            found[handle] = [t if i < self.right else (t + 1) % 300 for i, t in enumerate(next_ones)]
        return found

    def forget(self, handle):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-mistral", "tiny-gemma3"])
@pytest.mark.parametrize("right", [0, 2])
def test_what_a_draft_got_wrong_is_taken_back(tiny_models, tmp_path, name, right):
    """Alone and beside others, of windows as well that are full."""
    path = windowed(tiny_models[name], tmp_path, 16) if name != "tiny-qwen2" else tiny_models[name]
    engine = steps(path)
    work = prompts(engine.tokenizer, (3, 21, 60))
    wanted = {id: recomputed(path, prompt, NEW) for id, prompt in work.items()}
    known = [[*prompt, *wanted[id]] for id, prompt in work.items()]
    for group in (list(work), ["p60"]):
        draft = Wrong(known, right)
        found = answers(engine, [request(id, work[id]) for id in group], draft=draft)
        assert found == {(id, 0): wanted[id] for id in group}
        engine.forget()


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-gemma3"])
def test_a_smaller_model_as_draft_changes_nothing(tiny_models, tmp_path, name):
    """The draft keeps all tokens of its sliding layers, for it steps ahead one by one and is then set back."""
    path = windowed(tiny_models[name], tmp_path, 16) if name != "tiny-qwen2" else tiny_models[name]
    small = adapter("mlx").load_steps(spec(path, "bfloat16"), lambda *_: None, rewinds=True)
    engine = steps(path)
    work = prompts(engine.tokenizer, (3, 60))
    found = answers(engine, [request(id, prompt) for id, prompt in work.items()], draft=DraftModel(small))
    assert found == {(id, 0): recomputed(path, prompt, NEW) for id, prompt in work.items()}


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_keys_and_values_batch_equals_alone(tiny_models, bits):
    """And with a reused beginning, and with tokens taken back; the next token is mostly what it is without."""
    path = tiny_models["tiny-qwen2"]
    engine = adapter("mlx").load_steps(spec(path, cache_bits=bits), lambda *_: None)
    assert engine.together
    work = prompts(engine.tokenizer, (1, 7, 64, 100))
    requests = [request(id, p, max_tokens=6 + 5 * i) for i, (id, p) in enumerate(work.items())]
    alone = {}
    for one in requests:
        alone |= answers(engine, [one])
        engine.forget()
    assert answers(engine, requests, shuffle=random.Random(1)) == alone
    assert answers(engine, requests) == alone  # what the first run left is reused
    known = [[*work[id], *tokens] for (id, _), tokens in alone.items()]
    engine.forget()
    assert answers(engine, requests[:3], draft=Wrong(known, 1)) == {(r.id, 0): alone[r.id, 0] for r in requests[:3]}
    exact = steps(path)
    ids = work["p100"]
    rows = [made.prefill_all(made.open(), ids[:60]) for made in (engine, exact)]
    same = (rows[0].argmax(axis=-1) == rows[1].argmax(axis=-1)).mean()
    assert same > (0.95 if bits == 8 else 0.7)


def test_a_prompt_whose_last_token_gets_a_pass_of_its_own(tiny_models):
    engine = steps(tiny_models["tiny-qwen2"])
    work = prompts(engine.tokenizer, (3, 41, 100))
    expected = answers(engine, [request(id, prompt) for id, prompt in work.items()])
    engine.forget()
    engine.most_logits = 0
    assert answers(engine, [request(id, prompt) for id, prompt in work.items()]) == expected
