"""Several prompts, running sequences and drafts of different lengths in one pass, and what is cut off again."""

import random

import pytest

from llmctl.domain import NGRAM, Chunk, EngineSpec, GenerateRequest, Sampling, Usage
from llmctl.engines import adapter, torch_graphs
from llmctl.errors import Unsupported

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.models
MODELS = ["tiny-llama", "tiny-qwen2", "tiny-mistral", "tiny-phi", "tiny-phi3", "tiny-qwen3", "tiny-gemma3"]


def spec(path, **fields):
    fields = {"context": 512, "parallel": 4, "device": "cpu", "dtype": "float32", **fields}
    return EngineSpec("torch", path.name, str(path), "safetensors", **fields)


def loaded(path, **fields):
    return adapter("torch").load_steps(spec(path, **fields), lambda *_: None)


@pytest.fixture(scope="module")
def llama(tiny_models):
    return loaded(tiny_models["tiny-llama"])


def text(n, first=0):
    return [(7919 * (first + i) + 11) % 900 + 20 for i in range(n)]


def whole(engine, tokens):
    """The model's own logits after each token: [tokens, vocab], its eager attention over all of them at once."""
    from llmctl.engines import torch_attention

    model = engine._model
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            return model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    finally:
        model.set_attn_implementation(torch_attention.NAME)


@pytest.mark.parametrize("name", MODELS)
def test_a_ragged_pass_computes_what_each_sequence_gives_alone(tiny_models, name):
    """Random passes of prompts, single tokens and drafts, with cuts, joins and forks between them."""
    engine, chance = loaded(tiny_models[name]), random.Random(5)
    texts = {}
    for _ in range(30):
        if len(texts) < 2 or (len(texts) < 6 and chance.random() < 0.3):
            texts[engine.open()] = []
        elif chance.random() < 0.15:
            source = chance.choice([seq for seq in texts if texts[seq]] or [None])
            if source is not None and len(texts) < 6:
                texts[engine.fork(source)] = list(texts[source])
        feed = {}
        for seq in chance.sample(sorted(texts), chance.randint(1, len(texts))):
            n = chance.choice([1, 1, 1, 2, 5, 30]) if texts[seq] else chance.choice([1, 20, 60])
            feed[seq] = text(n, chance.randint(0, 10_000))
        every = {seq for seq in feed if chance.random() < 0.4}
        logits, row = engine.forward(feed, every), 0
        best, finite = logits.argmax()
        assert all(finite)
        for seq, tokens in feed.items():
            texts[seq] += tokens
            expected = whole(engine, texts[seq])[-len(tokens) if seq in every else -1 :]
            for one in expected:
                assert abs(logits.row(row) - one).max() < 1e-3 * abs(one).max()
                assert best[row] == logits.row(row).argmax()
                row += 1
        assert row == len(best)
        for seq in list(texts):
            if texts[seq] and chance.random() < 0.2:
                keep = chance.randint(1, len(texts[seq]))
                engine.rewind(seq, keep)
                del texts[seq][keep:]
            elif chance.random() < 0.1:
                engine.free(seq)
                del texts[seq]


def test_a_poisoned_sequence_does_not_reach_others_of_its_pass(llama):
    """NaN keys in one row, in the same pass as another prompt and another single token."""
    sick, well, new = llama.open(), llama.open(), llama.open()
    llama.forward({sick: text(30), well: text(20, 50)})
    with torch.inference_mode():
        llama._cache._layers[0][0][llama._cache.row(sick), 0, 3] = torch.nan
    logits = llama.forward({sick: [5], well: [6], new: text(9, 80)})
    assert logits.argmax()[1] == [False, True, True]
    expected = whole(llama, [*text(20, 50), 6])[-1]
    assert abs(logits.row(1) - expected).max() < 1e-3 * abs(expected).max()
    for seq in (sick, well, new):
        llama._end(seq)


def run(path, requests, **fields):
    """The tokens of each request and the usage of the first."""
    events = []
    engine = adapter("torch").load(spec(path, **fields), lambda *_: None, events.append)
    for one in requests:
        engine.submit(one)
    while engine.step():
        pass
    engine.close()
    chunks = [e for e in events if isinstance(e, Chunk)]
    ids = {one.id: [p.id for c in chunks if c.id == one.id for p in c.logprobs] for one in requests}
    return ids, next(c.usage for c in chunks if c.id == requests[0].id and c.usage)


@pytest.fixture(scope="module")
def asked():
    """Texts that repeat themselves, so that something is drafted, sampled and greedy."""
    return [
        GenerateRequest(f"r{n}", prompt=tuple(text(12, 40 * n) * 4), sampling=sampling, max_tokens=40, ignore_eos=True,
                        logprobs=0)
        for n, sampling in enumerate([Sampling(temperature=0), Sampling(temperature=0), Sampling(seed=3)])
    ]  # fmt: skip


@pytest.mark.parametrize("draft", [NGRAM, "itself"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3"])
def test_drafts_change_no_token(tiny_models, asked, name, draft):
    plain, _ = run(tiny_models[name], asked)
    path = str(tiny_models[name]) if draft == "itself" else draft
    drafted, usage = run(tiny_models[name], asked, draft=path)
    assert drafted == plain
    assert isinstance(usage, Usage) and usage.drafted > 0
    if draft == "itself":
        assert usage.agreed == usage.drafted


def test_a_draft_with_another_vocabulary_is_refused(tiny_models):
    with pytest.raises(Unsupported, match="tokens") as caught:
        run(tiny_models["tiny-phi3"], [], draft=str(tiny_models["tiny-qwen2"]))
    assert caught.value.hint


def test_steps_of_fixed_shape_compute_the_same(tiny_models, monkeypatch):
    """What is recorded on CUDA, repeated here without the recording: joins, leaves, growth of the cache, windows."""
    monkeypatch.setattr(torch_graphs, "SPAN", 64)

    def repeated(compute):
        logits = compute()
        made.append(logits)
        return lambda: logits.copy_(compute()), logits

    for name in ("tiny-llama", "tiny-gemma3"):
        made = []
        engine = loaded(tiny_models[name])
        engine._graphs = torch_graphs.Graphs(engine._model, engine._cache, repeated)
        texts = {}
        for n, size in enumerate((20, 70, 45, 200)):
            seq = engine.open()
            texts[seq] = text(size, 50 * n)
            engine.prefill(seq, texts[seq])
            for step in range(20):
                feed = {seq: text(1, step * 7 + seq)[0] for seq in reversed(texts)}
                logits = engine.step(feed)
                for row, (seq, token) in enumerate(feed.items()):
                    texts[seq].append(token)
                    if step in (0, 7, 8, 19):
                        expected = whole(engine, texts[seq])[-1]
                        assert abs(logits.row(row) - expected).max() < 1e-3 * abs(expected).max()
            if n == 1:
                seq = min(texts)
                engine.free(seq)
                del texts[seq]
        assert len(made) >= 4


def test_a_model_that_cannot_be_recorded_goes_on_without(tiny_models):
    def refused(compute):
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = loaded(tiny_models["tiny-llama"])
    engine._graphs = torch_graphs.Graphs(engine._model, engine._cache, refused)
    seq = engine.open()
    engine.prefill(seq, text(20))
    for n in range(12):
        found = engine.step({seq: text(1, n)[0]}).row(0)
    expected = whole(engine, text(20) + [text(1, n)[0] for n in range(12)])[-1]
    assert abs(found - expected).max() < 1e-3 * abs(expected).max()
