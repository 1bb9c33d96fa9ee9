"""The figures of the quality gate against hand-computed values and a naive reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llmctl.catalog import QualityLimit
from llmctl.errors import UsageError
from llmctl.models.quality import bits_of, metrics
from llmctl.models.quality.metrics import log_softmax, measure, summary
from llmctl.models.quality.report import Metrics, verdict


def compared(source, target, following, lengths=None):
    """The summary over logits given as plain lists."""
    source, target = np.array(source, np.float32), np.array(target, np.float32)
    return summary(measure(source, target, np.array(following)), lengths or [len(following)])


def naive(source, target, following):
    """KL, agreement and losses by their definitions, a number at a time."""
    kl, same, losses = [], [], ([], [])
    for p_row, q_row, next_id in zip(source, target, following, strict=True):
        p_all, q_all = (math.fsum(math.exp(float(x)) for x in row) for row in (p_row, q_row))
        p, q = [math.exp(float(x)) / p_all for x in p_row], [math.exp(float(x)) / q_all for x in q_row]
        kl.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        same.append(p.index(max(p)) == q.index(max(q)))
        losses[0].append(-math.log(p[next_id]))
        losses[1].append(-math.log(q[next_id]))
    return kl, same, losses


def test_by_hand():
    """P = (1/2, 1/4, 1/4) and Q = (1/4, 1/2, 1/4): KL = 1/2 ln 2 - 1/4 ln 2, and their likeliest tokens differ."""
    p, q = [math.log(2), 0, 0], [0, math.log(2), 0]
    found = compared([p, p], [q, p], [0, 0])
    assert found.mean_kl == pytest.approx(math.log(2) / 8, abs=1e-7)
    assert found.max_kl == pytest.approx(math.log(2) / 4, abs=1e-7)
    assert found.p99_kl == pytest.approx(0.99 * math.log(2) / 4, abs=1e-7)
    assert found.top1 == 0.5
    assert found.source_perplexity == pytest.approx(2)
    assert found.target_perplexity == pytest.approx(math.sqrt(4 * 2))
    assert (found.tokens, found.known_windows) == (2, 1)


def test_the_direction_is_from_the_source():
    p, q = [math.log(8), 0], [0, 0]
    forth, back = compared([p], [q], [0]).mean_kl, compared([q], [p], [0]).mean_kl
    assert forth == pytest.approx(8 / 9 * math.log(16 / 9) + 1 / 9 * math.log(2 / 9), abs=1e-7)
    assert back == pytest.approx(0.5 * math.log(9 / 16) + 0.5 * math.log(9 / 2), abs=1e-7)


def test_equals_a_naive_reference():
    random = np.random.default_rng(1)
    source = (random.standard_normal((50, 300)) * 4).astype(np.float32)
    target = source + (random.standard_normal((50, 300)) * 0.5).astype(np.float32)
    following = source.argmax(axis=1)
    kl, same, losses = naive(source, target, following)
    found = compared(source, target, following)
    assert found.mean_kl == pytest.approx(np.mean(kl), rel=1e-9)
    assert found.max_kl == pytest.approx(max(kl), rel=1e-9)
    assert found.p99_kl == pytest.approx(np.quantile(kl, 0.99), rel=1e-9)
    assert found.top1 == np.mean(same)
    assert found.source_perplexity == pytest.approx(math.exp(np.mean(losses[0])))
    assert found.target_perplexity == pytest.approx(math.exp(np.mean(losses[1])))


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(2)
    source, target = (random.standard_normal((23, 40)).astype(np.float32) for _ in range(2))
    following = random.integers(0, 40, 23)
    whole = compared(source, target, following, [10, 13])
    monkeypatch.setattr(metrics, "BLOCK", 160)
    assert compared(source, target, following, [10, 13]) == whole


rows = arrays.arrays(np.float32, (3, 9), elements=st.floats(-80, 80, width=32))


@given(rows, rows)
@settings(max_examples=200, deadline=None)
def test_never_negative_and_zero_for_the_same(source, target):
    found = measure(source, target, np.array([0, 4, 8]))
    assert (found.kl >= 0).all() and np.isfinite(found.kl).all()
    same = compared(source, source, [0, 4, 8])
    assert (same.mean_kl, same.max_kl, same.top1) == (0.0, 0.0, 1.0)
    assert same.source_perplexity == same.target_perplexity


def test_large_logits_do_not_overflow():
    found = compared([[1e4, 0.0]], [[0.0, 1e4]], [1])
    assert found.mean_kl == pytest.approx(1e4)
    assert math.isfinite(found.source_perplexity) and found.target_perplexity == pytest.approx(1)
    assert log_softmax(np.array([[1e30, 0.0]])).tolist() == [[0.0, -1e30]]


def test_a_padded_vocabulary_is_compared_over_the_ids_of_both():
    """The probability that the wider model gives to padding is not part of the comparison."""
    p = [math.log(2), 0.0]
    assert compared([p], [[*p, 50.0, 50.0]], [0]) == compared([p], [p], [0])
    assert compared([[*p, 50.0]], [p], [0]) == compared([p], [p], [0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["source", "target"])
def test_logits_that_are_not_finite_are_counted_and_fail(value, side):
    good = [[1.0, 2.0], [0.0, 1.0], [2.0, 0.0]]
    bad = [good[0], [0.0, value], good[2]]
    found = compared(*((bad, good) if side == "source" else (good, bad)), [1, 1, 0])
    assert (found.source_nonfinite, found.target_nonfinite) == ((1, 0) if side == "source" else (0, 1))
    assert (found.tokens, found.mean_kl) == (2, 0.0)
    assert verdict(found, QualityLimit(8, 1.0, 0.0)) == f"the logits of the {side} are not finite at 1 positions"


def test_nothing_finite_at_all_fails():
    found = compared([[math.nan, 0.0]], [[0.0, 0.0]], [0])
    assert (found.tokens, found.mean_kl, found.source_nonfinite) == (0, None, 1)
    assert verdict(found, QualityLimit(8, 1.0, 0.0))
    assert verdict(Metrics(0), QualityLimit(8, 1.0, 0.0)) == "no position was compared"


def windows_of(*right):
    """Two-token vocabulary: in each window the source is right at so many of its four positions."""
    source = [[1.0, 0.0]] * 4 * len(right)
    following = [0 if position < count else 1 for count in right for position in range(4)]
    return source, following, [4] * len(right)


def test_windows_that_are_strange_to_the_source_do_not_count():
    source, following, lengths = windows_of(2, 0, 1)
    target = [[0.0, 1.0] if 4 <= position < 8 else row for position, row in enumerate(source)]
    found = compared(source, target, following, lengths)
    assert (found.tokens, found.known_windows, found.mean_kl, found.top1) == (8, 2, 0.0, 1.0)


def test_a_source_that_knows_nothing_is_judged_by_all_windows():
    source, following, lengths = windows_of(0, 0)
    found = compared(source, [[0.0, 1.0]] * 8, following, lengths)
    assert (found.tokens, found.known_windows, found.top1) == (8, 0, 0.0)


def test_nan_in_a_strange_window_of_the_target_fails_all_the_same():
    source, following, lengths = windows_of(2, 0)
    target = [*source[:4], *[[math.nan, 1.0]] * 4]
    found = compared(source, target, following, lengths)
    assert found.target_nonfinite == 4 and verdict(found, QualityLimit(8, 1.0, 0.0))


FINE = Metrics(100, 0.01, 0.1, 0.2, 0.99, 5.0, 5.1, 4)


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        (QualityLimit(8, 0.01, 0.99), ""),
        (QualityLimit(8, 0.009, 0.99), "the mean KL divergence of 0.01 nats is over 0.009"),
        (QualityLimit(8, 0.01, 0.991), "the top-1 agreement of 99.00% is under 99.10%"),
        (QualityLimit(8, 0.0, 1.0), "the mean KL divergence of 0.01 nats is over 0; "
         "the top-1 agreement of 99.00% is under 100.00%"),
        (QualityLimit(8, math.nan, 0.0), "the mean KL divergence of 0.01 nats is over nan"),
    ],
)  # fmt: skip
def test_verdict(limit, why):
    assert verdict(FINE, limit) == why


def test_the_likeliest_token_of_a_source_that_knows_nothing_does_not_count():
    strange = replace(FINE, known_windows=0)
    assert verdict(strange, QualityLimit(8, 0.01, 1.0)) == ""
    assert verdict(strange, QualityLimit(8, 0.001, 0.0))


def test_bits():
    for bits, names in {
        2: ["q2_k", "2bit", "mixed-2-6"],
        3: ["q3_k_m", "3bit", "mixed-3-6", "mixed_3_4", "3bit-g128"],
        4: ["q4_k_m", "q4_0", "4bit", "4bit-g64", "mxfp4", "nvfp4", "int4", "iq4_xs", "mxfp4-q8"],
        5: ["q5_k_s", "5bit"],
        6: ["q6_k", "6bit", "mxfp8", "fp8"],
        8: ["q8_0", "8bit", "int8"],
        16: ["bf16", "f16", "fp16", "f32", "fp32", "float32"],
    }.items():
        assert {name: bits_of(name) for name in names} == dict.fromkeys(names, bits)


@pytest.mark.parametrize("name", ["", "k_m", "q0", "full", "9999"])
def test_bits_of_a_name_without_them(name):
    with pytest.raises(UsageError, match="how many bits"):
        bits_of(name)
