"""What the torch engine keeps of ended sequences, gives to prompts that begin alike, and drops where room is wanted."""

import pytest

from llmctl.domain import Chunk, EngineSpec, Failure, GenerateRequest, Sampling
from llmctl.engines import adapter
from llmctl.engines.batch import BatchEngine
from llmctl.engines.torch_cache import OutOfRoom, fitting
from llmctl.engines.torch_prefixes import LEAST, Prefixes, Text, spent
from llmctl.errors import DoesNotFit

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.models


def loaded(path, **fields):
    fields = {"context": 512, "parallel": 4, "device": "cpu", "dtype": "float32", **fields}
    return adapter("torch").load_steps(
        EngineSpec("torch", path.name, str(path), "safetensors", **fields), lambda *_: None
    )


@pytest.fixture(scope="module")
def llama(tiny_models):
    return loaded(tiny_models["tiny-llama"])


@pytest.fixture
def engine(llama):
    """An engine that holds nothing, and has the limit it was loaded with."""
    most = llama._cache.most
    yield llama
    for seq in list(llama._prefixes.texts):
        llama._end(seq)
    llama._cache.most = most


def text(n, first=0):
    return [(7919 * (first + i) + 11) % 900 + 20 for i in range(n)]


def ended(engine, tokens):
    """A sequence that was computed and has ended."""
    seq = engine.open()
    engine.prefill(seq, tokens)
    engine.free(seq)


def fresh(engine, tokens, **fields):
    """The logits after `tokens` without any reuse."""
    seq = engine.open(**fields)
    row = engine.prefill(seq, tokens).row(0)
    engine._end(seq)
    return row


def taken(engine, prompt):
    """A new sequence for a prompt: how much of it was there, and the logits after the rest."""
    seq = engine.open()
    same = engine.reuse(seq, prompt)
    return seq, same, engine.prefill(seq, prompt[same:]).row(0)


@pytest.mark.parametrize("tail", [[], [5], text(3, 500), text(150, 500)])
def test_a_prompt_that_begins_as_an_ended_sequence_computes_only_the_rest(engine, tail):
    """Also where that is cut: behind the common part nothing of the ended one is left."""
    ended(engine, text(90) + tail)
    prompt = text(90) + text(40, 900)
    seq, same, row = taken(engine, prompt)
    assert same == 90
    assert engine._cache.length(seq) == len(prompt)
    assert abs(row - fresh(engine, prompt)).max() < 1e-4 * abs(row).max()


def test_never_the_whole_prompt_is_reused(engine):
    ended(engine, text(60))
    _, same, row = taken(engine, text(60))
    assert same == 59
    assert abs(row - fresh(engine, text(60))).max() < 1e-4 * abs(row).max()


def test_a_running_sequence_lends_a_copy_and_goes_on(engine):
    running = engine.open()
    engine.prefill(running, text(80))
    _, same, row = taken(engine, [*text(70), 5, 6])
    assert same == 70
    assert abs(row - fresh(engine, [*text(70), 5, 6])).max() < 1e-4 * abs(row).max()
    assert abs(engine.step({running: 7}).row(0) - fresh(engine, [*text(80), 7])).max() < 1e-4 * abs(row).max()


def test_a_long_text_stays_for_its_own_when_another_takes_its_beginning(engine):
    ended(engine, text(30) + text(200, 300))
    taken(engine, text(30) + text(9, 700))
    assert taken(engine, [*text(30), *text(200, 300), 5])[1] == 230


def test_short_beginnings_and_other_texts_are_not_reused(engine):
    ended(engine, text(90))
    assert taken(engine, [*text(LEAST - 1), 5, 6])[1] == 0
    assert taken(engine, text(90, 1))[1] == 0


def test_a_text_that_another_one_contains_is_not_kept_twice(engine):
    for n in (40, 60, 60, 50):
        ended(engine, text(n))
    assert [len(engine._prefixes.texts[seq].tokens) for seq in engine._prefixes.kept] == [60]


def test_what_is_not_finite_is_not_reused(engine):
    ended(engine, text(60))
    (kept,) = engine._prefixes.kept
    with torch.inference_mode():
        engine._cache._layers[1][1][engine._cache.row(kept), 0, 30] = torch.nan
    _, same, row = taken(engine, [*text(60), 5])
    assert same == 0
    assert torch.from_numpy(row).isfinite().all()


def test_f14_kept_texts_go_first_in_when_room_is_wanted(engine):
    engine._cache.most = 3 * 64 * engine._cache.token_bytes
    for first in (0, 100, 200):
        ended(engine, text(50, first))
    running = engine.open()
    engine.prefill(running, text(50, 300))
    assert engine._cache.bytes <= engine._cache.most
    assert [engine._prefixes.texts[seq].tokens[0] for seq in engine._prefixes.kept] == [
        text(1, 100)[0],
        text(1, 200)[0],
    ]


def test_f14_over_the_limit_one_request_ends_and_the_others_go_on(engine):
    engine._cache.most = 2 * 128 * engine._cache.token_bytes
    events = []
    batch = BatchEngine(engine, events.append)
    for id, first, size in (("a", 0, 30), ("big", 100, 250), ("b", 200, 40), ("c", 300, 50)):
        sampling = Sampling(temperature=0)
        prompt = tuple(text(size, first))
        batch.submit(GenerateRequest(id, prompt=prompt, sampling=sampling, max_tokens=12, ignore_eos=True))
    while batch.step():
        assert engine._cache.bytes <= engine._cache.most
    assert [(e.id, e.error["code"]) for e in events if isinstance(e, Failure)] == [("big", "out_of_memory")]
    assert sorted(e.id for e in events if isinstance(e, Chunk) and e.usage) == ["a", "b", "c"]


def test_f14_a_pass_over_the_limit_leaves_every_sequence_as_it_was(engine):
    engine._cache.most = 2 * 64 * engine._cache.token_bytes
    one, other = engine.open(), engine.open()
    engine.forward({one: text(60), other: text(20, 100)})
    with pytest.raises(OutOfRoom) as caught:
        engine.forward({one: text(30, 60), other: [5]})
    assert caught.value.code == "out_of_memory"
    assert (engine._cache.length(one), engine._cache.length(other)) == (60, 20)
    engine.limit(None)
    row = engine.step({other: 5}).row(0)
    assert abs(row - fresh(engine, [*text(20, 100), 5])).max() < 1e-4 * abs(row).max()


def test_f14_memory_that_runs_out_within_a_pass_takes_kept_texts_first(engine, monkeypatch):
    """The third layer's allocation fails, as long as something is kept."""
    ended(engine, text(200))
    layer = type(engine._cache).layer

    def full(self, index, *pair):
        if index == 2 and engine._prefixes.kept:
            raise MemoryError("no room")
        return layer(self, index, *pair)

    monkeypatch.setattr(type(engine._cache), "layer", full)
    seq = engine.open()
    row = engine.prefill(seq, text(50, 300)).row(0)
    assert not engine._prefixes.kept
    assert abs(row - fresh(engine, text(50, 300))).max() < 1e-4 * abs(row).max()


def test_f14_memory_that_runs_out_for_good_ends_the_pass_alone(engine, monkeypatch):
    running = engine.open()
    engine.prefill(running, text(40))
    compute = engine._compute

    def full(feed, every):
        compute(feed, every)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_compute", full)
        with pytest.raises(OutOfRoom):
            engine.forward({running: [5], engine.open(): text(30, 100)})
    row = engine.step({running: 7}).row(0)
    assert abs(row - fresh(engine, [*text(40), 7])).max() < 1e-4 * abs(row).max()


def test_memory_is_flat_however_many_requests_end(engine):
    sizes = set()
    for n in range(60):
        ended(engine, text(100 + n % 7, 200 * n))
        sizes.add(engine._cache.bytes)
    assert max(sizes) <= engine._cache.most == 4 * 512 * engine._cache.token_bytes
    assert len(engine._prefixes.texts) == len(engine._prefixes.kept) < 20


def test_the_limit_is_the_operators(tiny_models):
    engine = loaded(tiny_models["tiny-llama"], cache_bytes=600_000)
    seq = engine.open()
    with pytest.raises(OutOfRoom, match="600000 bytes"):
        engine.prefill(seq, text(300))
    engine.prefill(seq, text(60))


def test_a_limit_that_holds_no_prompt_is_refused_at_load(tiny_models):
    with pytest.raises(DoesNotFit, match="256 tokens") as caught:
        loaded(tiny_models["tiny-llama"], cache_bytes=300_000)
    assert caught.value.details["budget"] == 300_000 < caught.value.details["needed"]


@pytest.mark.parametrize(
    ("now", "lengths", "most", "shape"),
    [
        ((0, 0), [1], None, (1, 256)),
        ((4, 256), [10, 300, 10, 10, 10], None, (8, 512)),
        ((4, 256), [10, 10, 10, 10, 10], 2048, (8, 256)),
        ((4, 256), [10, 10, 10, 10, 10], 1300, (5, 256)),
        ((4, 256), [10, 10, 300, 10], 1300, (4, 320)),
        ((4, 256), [300], 1300, (1, 512)),
        ((1, 256), [130, 1], 300, (2, 130)),
        ((1, 256), [151, 1], 300, None),
        ((0, 0), [1], 0, None),
    ],
)
def test_a_cache_doubles_until_its_limit_and_then_takes_what_it_needs(now, lengths, most, shape):
    assert fitting(now, lengths, most) == shape


def test_texts_of_other_adapters_are_strangers():
    texts = Prefixes()
    texts.texts = {1: Text(None, text(50)), 2: Text("french", text(40)), 3: Text("french", [])}
    assert texts.longest("french", text(60)) == [(2, 40)]
    assert texts.longest(None, text(60)) == [(1, 50)]
    assert texts.longest("other", text(60)) == []
    assert texts.keep(1) == set()
    assert texts.keep(2) == set()
    assert list(texts.kept) == [1, 2]


@pytest.mark.parametrize(
    ("length", "same", "yes"), [(100, 100, True), (116, 100, True), (130, 100, False), (1800, 1500, True)]
)
def test_a_row_is_given_away_when_little_is_lost(length, same, yes):
    assert spent(range(length), same) is yes
