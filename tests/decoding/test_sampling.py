"""Every sampling field, against its definition, on small and on vocabulary-sized rows."""

from collections import Counter

import numpy as np
import pytest

from llmctl.decoding.sampling import NonFiniteLogits, NothingAllowed, Sampler, log_probabilities, nucleus
from llmctl.domain import Sampling


class Only:
    """A mask that allows some ids and remembers what it was told."""

    def __init__(self, vocab, ids):
        self.mask = np.isin(np.arange(vocab), ids)
        self.told = []

    def allowed(self):
        return self.mask

    def accept(self, token):
        self.told.append(token)


def row(*values):
    return np.array(values, dtype=np.float32)


def sampler(vocab=4, prompt=(), mask=None, logprobs=None, index=0, **fields):
    return Sampler(Sampling(**fields), prompt, vocab, mask=mask, logprobs=logprobs, index=index)


def support(logits, draws=400, **fields):
    s = sampler(len(logits), seed=1, **fields)
    return Counter(s.choose(logits).token for _ in range(draws))


def greedy(logits, history=(), **fields):
    s = sampler(len(logits), temperature=0, **fields)
    for token in history:
        s.accept(token)
    return s.choose(logits).token


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_greedy_takes_the_first_of_equal_maxima():
    assert greedy(row(1, 3, 3, 0)) == 1


def test_frequencies_follow_the_temperature():
    logits = row(0, 1, 2, 3)
    for temperature in (0.5, 1.0, 2.0):
        seen = support(logits, 4000, temperature=temperature)
        expected = softmax(logits / temperature)
        for id in range(4):
            assert abs(seen[id] / 4000 - expected[id]) < 0.03


def test_a_tiny_temperature_is_greedy_without_overflow():
    assert set(support(row(-3e38, 5, 4.9, 3), 20, temperature=1e-30)) == {1}


def test_top_k_keeps_the_k_most_likely_and_ties_with_the_last():
    assert set(support(row(0, 3, 2, 1), top_k=2)) == {1, 2}
    assert set(support(row(1, 3, 2, 2), top_k=2)) == {1, 2, 3}
    assert set(support(row(0, 3, 2, 1), top_k=1)) == {1}


def test_top_p_keeps_the_fewest_that_hold_the_mass():
    logits = np.log(row(0.5, 0.3, 0.15, 0.05))
    assert set(support(logits, top_p=0.5)) == {0}
    assert set(support(logits, top_p=0.51)) == {0, 1}
    assert set(support(logits, top_p=0.81)) == {0, 1, 2}
    assert set(support(logits, top_p=0.0)) == {0}


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0])
def test_nucleus_on_a_large_vocabulary_equals_the_full_sort(top_p, scale):
    weights = softmax(np.random.default_rng(0).normal(size=20_000).astype(np.float32) * np.float32(scale))
    order = np.argsort(-weights, kind="stable")
    count = int(np.searchsorted(np.cumsum(weights[order], dtype=np.float64), top_p * weights.sum(dtype=np.float64))) + 1
    assert nucleus(weights, top_p).tolist() == sorted(order[:count].tolist())


def test_min_p_is_relative_to_the_most_likely():
    logits = np.log(row(0.5, 0.3, 0.15, 0.05))
    assert set(support(logits, min_p=0.25)) == {0, 1, 2}
    assert set(support(logits, min_p=1.0)) == {0}


def test_top_k_then_top_p_counts_the_mass_of_what_is_left():
    logits = np.log(row(0.4, 0.3, 0.2, 0.1))
    assert set(support(logits, top_k=2, top_p=0.55)) == {0}  # 0.4 of the remaining 0.7
    assert set(support(logits, top_p=0.55)) == {0, 1}


def test_logit_bias_moves_and_bans():
    assert greedy(row(1, 3, 2, 0), logit_bias=((3, 5.0),)) == 3
    assert greedy(row(1, 3, 2, 0), logit_bias=((1, -100.0),)) == 2


def test_repetition_penalty_divides_or_multiplies_over_prompt_and_generated():
    logits = row(4, 3, -1, -1.5)
    assert greedy(logits, prompt=[0], repetition_penalty=2.0) == 1  # 4/2 < 3
    assert greedy(logits, history=[0], repetition_penalty=2.0) == 1
    assert greedy(row(-1, -1.5), prompt=[0], repetition_penalty=2.0) == 1  # -1·2 < -1.5
    assert greedy(logits, prompt=[0, 0, 0], repetition_penalty=1.2) == 0  # counted once


def test_presence_and_frequency_penalties_count_generated_tokens_only():
    logits = row(4, 3.4, 0, 0)
    assert greedy(logits, history=[0], presence_penalty=1.0) == 1
    assert greedy(logits, prompt=[0, 0], presence_penalty=1.0) == 0
    assert greedy(logits, history=[0], frequency_penalty=0.5) == 0
    assert greedy(logits, history=[0, 0], frequency_penalty=0.5) == 1


def test_the_mask_limits_the_choice_and_hears_of_it():
    mask = Only(4, [2, 3])
    s = sampler(mask=mask, temperature=0)
    token = s.choose(row(9, 8, 1, 0)).token
    s.accept(token)
    assert token == 2
    assert mask.told == [2]
    assert set(support(row(9, 8, 1, 0), mask=Only(4, [2, 3]))) == {2, 3}


def test_an_empty_mask_is_an_error_of_its_own():
    with pytest.raises(NothingAllowed):
        sampler(mask=Only(4, [])).choose(row(1, 2, 3, 4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_row_without_a_finite_maximum_is_an_error(bad, temperature):
    with pytest.raises(NonFiniteLogits) as caught:
        sampler(temperature=temperature).choose(row(1, bad, 0, 0))
    assert caught.value.code == "nonfinite_logits"
    with pytest.raises(NonFiniteLogits):
        sampler(temperature=temperature).choose(row(-np.inf, -np.inf))


def test_minus_infinity_is_only_a_token_that_never_comes():
    assert set(support(row(1, -np.inf, 1, -np.inf))) == {0, 2}


def draws(**fields):
    s = sampler(1000, **fields)
    logits = np.random.default_rng(5).normal(size=1000).astype(np.float32)
    return [s.choose(logits).token for _ in range(20)]


def test_the_seed_decides_and_each_of_n_sequences_has_its_own_stream():
    assert draws(seed=7) == draws(seed=7)
    assert draws(seed=7) != draws(seed=8)
    assert draws(seed=7) != draws(seed=7, index=1)
    assert draws() != draws()


def test_rounding_noise_in_the_logits_does_not_change_seeded_draws():
    logits = np.random.default_rng(5).normal(size=50_000).astype(np.float32)
    noisy = logits + np.random.default_rng(6).normal(size=50_000).astype(np.float32) * np.float32(1e-6)
    for fields in ({}, {"top_p": 0.9}, {"top_k": 50}, {"min_p": 0.05}):
        a, b = sampler(50_000, seed=3, **fields), sampler(50_000, seed=3, **fields)
        assert [a.choose(logits).token for _ in range(50)] == [b.choose(noisy).token for _ in range(50)]


def test_a_token_more_at_the_edge_of_top_p_changes_only_its_own_draws():
    flat = np.zeros(1000, dtype=np.float32)
    flat[:3] = (-1e-4, 1e-4, 1e-4)
    other = flat.copy()
    other[:3] = (1e-4, -1e-4, 1e-4)
    a, b = sampler(1000, seed=3, top_p=0.9), sampler(1000, seed=3, top_p=0.9)
    pairs = [(a.choose(flat).token, b.choose(other).token) for _ in range(300)]
    assert all(x == y or {x, y} & {0, 1} for x, y in pairs)


def test_logprobs_are_of_the_raw_distribution():
    logits = row(0, 1, 2, 3)
    choice = sampler(logprobs=2, temperature=0, logit_bias=((0, 50.0),)).choose(logits)
    raw = np.log(softmax(logits.astype(np.float64)))
    assert choice.token == 0
    assert choice.logprob == pytest.approx(raw[0], abs=1e-6)
    assert [id for id, _ in choice.top] == [3, 2]
    assert [p for _, p in choice.top] == pytest.approx([raw[3], raw[2]], abs=1e-6)


def test_logprobs_zero_is_the_chosen_token_only():
    assert sampler(logprobs=0, temperature=0).choose(row(0, 1, 0, 0)).top == ()
    assert sampler(temperature=0).choose(row(0, 1, 0, 0)).logprob is None


def test_top_logprobs_never_exceed_the_vocabulary():
    assert len(log_probabilities(row(1, 2, 3), 0, 20)[1]) == 3


def test_only_an_untouched_greedy_sequence_may_use_the_engines_argmax():
    assert sampler(temperature=0).greedy
    assert not sampler(temperature=1).greedy
    for fields in (
        {"logit_bias": ((1, 1.0),)},
        {"presence_penalty": 1.0},
        {"repetition_penalty": 1.1},
        {"logprobs": 0},
    ):
        assert not sampler(temperature=0, **fields).greedy


def test_a_masked_greedy_choice_is_the_engines_own_where_the_mask_allows_it():
    masked = sampler(temperature=0, mask=Only(4, [1]))
    assert masked.greedy
    assert [masked.allows(token) for token in range(4)] == [False, True, False, False]
    assert sampler(temperature=0).allows(3)
