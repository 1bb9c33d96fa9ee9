"""The pool of cache blocks against a plain copy of every sequence's tokens, in random histories."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.engines.openvino_blocks import CacheFull, Held, Pool

SIZE = 4


class Modelled:
    """A pool, what is in each of its blocks, and what each sequence should read there."""

    def __init__(self, count):
        self.pool = Pool(count, SIZE)
        self.memory = [[None] * SIZE for _ in range(count)]
        self.held, self.expected = [], []

    def read(self, held):
        return [self.memory[held.blocks[i // SIZE].index][i % SIZE] for i in range(len(held.tokens))]

    def check(self):
        for held, expected in zip(self.held, self.expected, strict=True):
            assert held.tokens == expected == self.read(held)
            assert len(held.blocks) == -(-len(expected) // SIZE)
        used = {block.index for held in self.held for block in held.blocks}
        assert self.pool.available == self.pool.count - len(used)

    def append(self, at, tokens):
        held, past = self.held[at], len(self.held[at].tokens)
        for source, target in self.pool.extend(held, tokens):
            self.memory[target] = list(self.memory[source])
        for i, token in enumerate(tokens, past):
            self.memory[held.blocks[i // SIZE].index][i % SIZE] = token
        self.pool.computed(held)
        self.expected[at] = self.expected[at] + list(tokens)


ACTIONS = st.tuples(
    st.sampled_from(["open", "append", "fork", "rewind", "free"]),
    st.integers(0, 99),
    st.lists(st.integers(0, 1), min_size=1, max_size=11),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTIONS, max_size=50))
def test_every_sequence_reads_its_own_tokens_whatever_others_do(history):
    model = Modelled(12)
    for action, number, tokens in history:
        at = number % max(1, len(model.held))
        if action == "open":
            held = Held()
            reused = model.pool.reuse(held, tokens)
            assert reused < len(tokens)
            model.held.append(held)
            model.expected.append(tokens[:reused])
        elif not model.held:
            continue
        elif action == "append":
            before = model.pool.available
            try:
                model.append(at, tokens)
            except CacheFull:
                assert model.pool.available == before < -(-len(tokens) // SIZE) + 1
        elif action == "fork":
            model.held.append(model.pool.fork(model.held[at]))
            model.expected.append(list(model.expected[at]))
        elif action == "rewind":
            length = number % (len(model.expected[at]) + 1)
            model.pool.rewind(model.held[at], length)
            model.expected[at] = model.expected[at][:length]
        else:
            model.pool.free(model.held.pop(at))
            model.expected.pop(at)
        model.check()


def test_an_ended_sequence_is_found_again_until_its_blocks_are_needed():
    model = Modelled(4)
    model.held, model.expected = [Held()], [[]]
    model.append(0, list(range(10)))
    model.pool.free(model.held[0])
    again = Held()
    assert model.pool.reuse(again, list(range(10))) == 8
    model.pool.free(again)
    assert model.pool.reuse(Held(), [9, *range(10)]) == 0
    model.held, model.expected = [Held()], [[]]
    model.append(0, list(range(50, 62)))  # takes three of the four blocks, the beginning is kept for longest
    other = Held()
    assert model.pool.reuse(other, list(range(10))) == 4
    with pytest.raises(CacheFull):
        model.append(0, [1])


def test_a_shared_block_is_copied_before_it_is_written():
    model = Modelled(4)
    model.held, model.expected = [Held()], [[]]
    model.append(0, [1, 2, 3, 4, 5])
    model.held.append(model.pool.fork(model.held[0]))
    model.expected.append([1, 2, 3, 4, 5])
    assert model.pool.available == 2
    model.append(1, [6])
    model.append(0, [7])
    model.check()
    assert model.held[0].blocks[0] is model.held[1].blocks[0]
    assert model.held[0].blocks[1] is not model.held[1].blocks[1]
