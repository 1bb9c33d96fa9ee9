"""What llama.cpp computes together, keeps and takes back: any order of calls gives what computing alone gives."""

import random

import numpy as np
import pytest

from llmctl.domain import EngineSpec
from llmctl.engines import llamacpp
from llmctl.engines.llamacpp_context import DecodeFailed
from tests.models.making import make_gguf

pytest.importorskip("xllamacpp")

CLOSE = {"rtol": 1e-3, "atol": 1e-1}  # a row's bits depend on what it is computed with


def loaded(path, **fields):
    fields = {"context": 512, "parallel": 8, "device": "cpu", "threads": 1, **fields}
    return llamacpp.load_steps(EngineSpec("llamacpp", "m", str(path), "gguf", **fields), lambda *_: None)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf")


@pytest.fixture(scope="module")
def steps(path):
    made = loaded(path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(path):
    """The logits behind a text, computed in one piece with nothing kept."""
    made = loaded(path, parallel=1)

    def row(ids):
        made._context.cut(made._context.slots[0], 0)
        seq = made.open()
        found = made.forward({seq: ids}).row(0)
        made.free(seq)
        return found

    yield row
    made.close()


@pytest.fixture(autouse=True)
def _nothing_left(request):
    yield
    if "steps" in request.fixturenames:
        engine = request.getfixturevalue("steps")
        for seq in list(engine._open):
            engine.free(seq)


def text(seed, length):
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(length)]


def passes(engine, monkeypatch):
    """How many tokens each call of llama.cpp gets from now on."""
    counts, fill = [], engine._context._fill

    def filled(work):
        extra = fill(work)
        counts.append(engine._context._batch.n_tokens)
        return extra

    monkeypatch.setattr(engine._context, "_fill", filled)
    return counts


def test_prompts_and_running_sequences_in_one_call_are_as_alone(steps, alone, monkeypatch):
    texts = {steps.open(): text(seed, 20 + 7 * seed) for seed in range(6)}
    steps.forward({seq: ids[:-1] for seq, ids in texts.items() if len(ids) < 40})
    counts = passes(steps, monkeypatch)
    feed = {seq: ids[-1:] if len(ids) < 40 else ids for seq, ids in reversed(texts.items())}
    rows = steps.forward(feed)
    assert len(counts) == 1
    for i, seq in enumerate(feed):
        np.testing.assert_allclose(rows.row(i), alone(texts[seq]), **CLOSE)
    best, finite = rows.argmax()
    assert list(best) == [int(alone(texts[seq]).argmax()) for seq in feed] and all(finite)


def test_a_call_is_in_the_order_of_the_slots_or_llamacpp_reads_the_weights_once_for_each(steps, monkeypatch):
    seqs = [steps.open() for _ in range(8)]
    steps.forward({seq: text(seq, 10) for seq in seqs})
    random.Random(4).shuffle(seqs)
    order, fill = [], steps._context._fill

    def filled(work):
        extra, batch = fill(work), steps._context._batch
        order.extend(batch.seq_id[i][0] for i in range(batch.n_tokens))
        return extra

    monkeypatch.setattr(steps._context, "_fill", filled)
    steps.forward({seq: [1] for seq in seqs})
    assert order == list(range(8))


def test_a_row_for_every_token_of_those_that_are_drafted(steps, alone):
    first, second, third = steps.open(), steps.open(), steps.open()
    ids = text(1, 30)
    rows = steps.forward({third: ids[:9], first: ids, second: text(2, 12)}, {first})
    assert len(rows.argmax()[0]) == 1 + 30 + 1
    np.testing.assert_allclose(rows.row(0), alone(ids[:9]), **CLOSE)
    for at in (1, 5, 30):
        np.testing.assert_allclose(rows.row(at), alone(ids[:at]), **CLOSE)
    np.testing.assert_allclose(rows.row(31), alone(text(2, 12)), **CLOSE)


def test_more_than_one_call_holds(path, alone, monkeypatch):
    steps = loaded(path, context=1536, parallel=2)
    ids = text(3, 1400)
    counts = passes(steps, monkeypatch)
    first, second = steps.open(), steps.open()
    rows = steps.forward({first: ids, second: text(4, 1100)}, {second})
    assert sorted(counts) == [1100, 1400]
    assert len(rows.argmax()[0]) == 1 + 1100
    again = loaded(path, context=1536, parallel=1)
    seq = again.open()
    np.testing.assert_allclose(rows.row(0), again.forward({seq: ids}).row(0), **CLOSE)
    np.testing.assert_allclose(rows.row(5), alone(text(4, 1100)[:5]), **CLOSE)
    again.close()
    steps.close()


def test_what_was_rewound_was_never_there(steps, alone):
    seq, other = steps.open(), steps.open()
    ids = text(5, 40)
    steps.forward({seq: ids + text(6, 9), other: ids})
    steps.rewind(seq, 40)
    for token in text(7, 3):
        ids = [*ids, token]
        np.testing.assert_allclose(steps.forward({seq: [token]}).row(0), alone(ids), **CLOSE)
    steps.rewind(seq, 0)
    np.testing.assert_allclose(steps.forward({seq: text(8, 4)}).row(0), alone(text(8, 4)), **CLOSE)


def test_the_beginning_of_an_ended_sequence_is_reused(steps, alone, monkeypatch):
    ids = text(9, 100)
    first = steps.open()
    steps.forward({first: ids})
    steps.free(first)
    seq, same = steps.open(), [*ids[:70], 1, 2, 3]
    assert steps.reuse(seq, same) == 70
    counts = passes(steps, monkeypatch)
    np.testing.assert_allclose(steps.forward({seq: same[70:]}).row(0), alone(same), **CLOSE)
    assert counts == [3]


def test_a_beginning_that_is_chance_decides_no_slot(steps):
    """The kept text of another is not thrown away for a token or two."""
    held = [steps.open() for _ in steps._context.slots]
    for number, seq in enumerate(held):
        steps.forward({seq: text(20 + number, 30)})
    slots = [steps._open[seq].slot for seq in held]
    for seq in held:
        steps._made += 1
        steps.free(seq)
    for common, expected in ((1, 0), (7, 1), (8, 5)):
        seq = steps.open()
        assert steps.reuse(seq, [*text(25, 30)[:common], *text(99, 30)]) == (common if expected == 5 else 0)
        assert steps._open[seq].slot is slots[expected]


def test_of_a_prompt_that_is_there_the_last_token_is_computed(steps, alone):
    ids = text(10, 50)
    first, second = steps.open(), steps.open()
    steps.forward({first: ids})
    steps.free(first)
    assert steps.reuse(second, ids) == 49
    np.testing.assert_allclose(steps.forward({second: ids[49:]}).row(0), alone(ids), **CLOSE)


def test_the_beginning_of_a_running_sequence_is_copied(steps, alone):
    ids = text(11, 120)
    first, second, third = steps.open(), steps.open(), steps.open()
    steps.forward({first: ids})
    assert steps.reuse(second, [*ids[:90], 5]) == 90
    assert steps.reuse(third, [*ids[:20], 5]) == 0  # a copy costs more
    rows = steps.forward({first: [7], second: [5]})
    np.testing.assert_allclose(rows.row(0), alone([*ids, 7]), **CLOSE)
    np.testing.assert_allclose(rows.row(1), alone([*ids[:90], 5]), **CLOSE)


def test_a_copy_is_of_its_own(steps, alone):
    ids = text(12, 30)
    first = steps.open()
    steps.forward({first: ids})
    second = steps.fork(first)
    rows = steps.forward({second: [1, 2], first: [3]})
    np.testing.assert_allclose(rows.row(0), alone([*ids, 1, 2]), **CLOSE)
    np.testing.assert_allclose(rows.row(1), alone([*ids, 3]), **CLOSE)


@pytest.mark.parametrize(
    ("ended", "filled"), [({1}, 1), ({1, 2, 5}, 3), ({0, 2, 4, 7}, 2), ({1, 2, 3, 4}, 0), ({4, 5, 6, 7}, 0)], ids=str
)
def test_sequences_with_gaps_between_them_are_as_alone(steps, alone, monkeypatch, ended, filled):
    texts = {steps.open(): text(20 + i, 15 + i) for i in range(8)}
    steps.forward(texts)
    texts = dict(sorted(texts.items(), key=lambda item: steps._open[item[0]].slot.id))
    for i, seq in enumerate(list(texts)):
        if i in ended:
            steps.free(seq)
            del texts[seq]
    counts = passes(steps, monkeypatch)
    for _ in range(2):
        rows = steps.forward({seq: [9] for seq in texts})
        for i, ids in enumerate(texts.values()):
            ids.append(9)
            np.testing.assert_allclose(rows.row(i), alone(ids), **CLOSE)
    assert counts == [len(texts) + filled] * 2


def test_what_fills_a_gap_leaves_nothing_behind(steps, alone):
    texts = {steps.open(): text(30 + i, 40) for i in range(8)}
    steps.forward(texts)
    first, gap, last = (list(texts)[i] for i in (0, 1, 2))
    steps.free(gap)
    steps.forward({first: [1], last: [2]})
    again = steps.open()
    assert steps.reuse(again, [*texts[gap], 4, 5]) == 40
    np.testing.assert_allclose(steps.forward({again: [4, 5]}).row(0), alone([*texts[gap], 4, 5]), **CLOSE)


def test_no_gap_is_filled_where_a_slot_is_full(path, alone):
    steps = loaded(path, context=256, parallel=3)
    texts = [text(40, 10), text(41, 256), text(42, 10)]
    first, full, last = (steps.open() for _ in texts)
    steps.forward(dict(zip((first, full, last), texts, strict=True)))
    steps.free(full)
    rows = steps.forward({first: [1], last: [2]})
    np.testing.assert_allclose(rows.row(1), alone([*texts[2], 2]), **CLOSE)
    steps.close()


def test_after_an_error_all_is_as_it_was(steps, alone, monkeypatch):
    ids = text(13, 60)
    first, second = steps.open(), steps.open()
    steps.forward({first: ids})
    decode = steps._lib.decode
    with monkeypatch.context() as patch:
        patch.setattr(steps._lib, "decode", lambda *batch: decode(*batch) or 1)
        with pytest.raises(DecodeFailed):
            steps.forward({first: [1], second: text(14, 20)})
    rows = steps.forward({second: text(15, 20), first: [2]})
    np.testing.assert_allclose(rows.row(0), alone(text(15, 20)), **CLOSE)
    np.testing.assert_allclose(rows.row(1), alone([*ids, 2]), **CLOSE)


def test_more_sequences_than_slots(steps):
    for seq in [steps.open() for _ in range(8)]:
        steps.forward({seq: [1]})
    with pytest.raises(DecodeFailed, match="all 8 sequences"):
        steps.forward({steps.open(): [1]})
