"""The torch engine's attention and KV cache, by themselves, against their definitions."""

import pytest

from llmctl.engines import torch_attention
from llmctl.engines.torch_cache import KVCache

torch = pytest.importorskip("torch")


class Module:
    """What attention asks of the layer that calls it."""

    layer_idx = 0


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("extra", ["none", "softcap", "sinks"])
@pytest.mark.parametrize(("past", "new"), [((0,), 6), ((5,), 6), ((5,), 1), ((5, 9, 0), 1), ((3, 3), 1)])
def test_attention_equals_its_definition(window, extra, past, new):
    torch.manual_seed(0)
    heads, shared, dim = 2, 3, 8
    cache, rows = KVCache(), len(past)
    cache.extend({seq: length + new for seq, length in enumerate(past)})
    history = [torch.randn(2, heads, length + new, dim) for length in past]
    keys, values = cache.layer(0, history[0][:1], history[0][1:])
    for row, length in enumerate(past):
        keys[row, :, :length], values[row, :, :length] = history[row][:, :, :length]
    query = torch.randn(rows, heads * shared, new, dim)
    fresh = torch.stack([h[:, :, -new:] for h in history], dim=1)
    softcap, sinks = (5.0 if extra == "softcap" else None), (torch.randn(heads * shared) if extra == "sinks" else None)
    found, _ = torch_attention.attend(
        Module(), query, fresh[0], fresh[1], None, 0.3, softcap, sinks,
        forward=torch_attention.Pass(cache, 0, past, new), sliding_window=window,
    )  # fmt: skip
    for row, length in enumerate(past):
        for head in range(heads * shared):
            for at in range(new):
                position = length + at
                first = 0 if window is None else max(0, position - window + 1)
                k, v = history[row][:, head // shared, first : position + 1]
                scores = k @ query[row, head, at] * 0.3
                scores = torch.tanh(scores / softcap) * softcap if softcap else scores
                scores = torch.cat([scores, sinks[head : head + 1]]) if sinks is not None else scores
                weights = scores.softmax(0)[: len(v)]
                assert torch.allclose(found[row, at, head], weights @ v, atol=1e-5)


def test_cache_rows_keep_their_content_through_every_move():
    """Random joins, leaves, forks and reorderings against a plain dictionary."""
    generator = torch.Generator().manual_seed(0)

    def chance(n):
        return int(torch.randint(n, (1,), generator=generator))

    cache, expected, names = KVCache(), {}, iter(range(10_000))

    def write(seq, tokens):
        fresh = torch.randn(1, 2, tokens, 4, generator=generator)
        past = cache.length(seq)
        cache.extend({seq: tokens})
        row = cache.row(seq)
        torch_attention.Pass(cache, row, [past], tokens).update(0, fresh, -fresh)
        expected[seq] = torch.cat([expected[seq], fresh[0]], dim=1)

    for _ in range(300):
        action, seqs = chance(7), sorted(expected)
        if action == 0 or not seqs:
            seq = next(names)
            expected[seq] = torch.zeros(2, 0, 4)
            write(seq, 1 + chance(300))
        elif action == 1:
            write(seqs[chance(len(seqs))], 1 + chance(5))
        elif action == 2 and len(seqs) < 8:
            source, seq = seqs[chance(len(seqs))], next(names)
            length = 1 + chance(cache.length(source))
            cache.copy(source, seq, length)
            expected[seq] = expected[source][:, :length].clone()
        elif action == 3:
            some = [seq for seq in seqs if chance(2)]
            assert sorted(cache.arrange(some)) == some
            assert sorted(cache.row(seq) for seq in some) == list(range(len(some)))
        elif action == 4:
            seq = seqs[chance(len(seqs))]
            cache.remove(seq)
            del expected[seq]
        elif action == 5:
            seq = seqs[chance(len(seqs))]
            cache.cut(seq, 1 + chance(cache.length(seq)))
            expected[seq] = expected[seq][:, : cache.length(seq)]
        elif action == 6:
            seq, new = seqs[chance(len(seqs))], next(names)
            cache.rename(seq, new)
            expected[new] = expected.pop(seq)
        for seq, content in expected.items():
            keys, values = cache._layers[0]
            length, row = cache.length(seq), cache.row(seq)
            assert torch.equal(keys[row, :, :length], content)
            assert torch.equal(values[row, :, :length], -content)
            assert not keys[row, :, length:].any()
        used = len(expected)
        assert not any(t[used:].any() for t in cache._tensors())


def test_a_copy_that_runs_out_of_memory_leaves_no_row_behind(monkeypatch):
    cache = KVCache()
    cache.extend({1: 4})
    torch_attention.Pass(cache, 0, [0], 4).update(0, torch.ones(1, 2, 4, 8), torch.ones(1, 2, 4, 8))

    def full(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(cache, "layer", full)
    with pytest.raises(MemoryError):
        cache.copy(1, 2, 4)
    assert 2 not in cache
    assert cache.arrange([1]) == [1]
