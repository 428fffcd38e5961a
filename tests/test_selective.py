"""Risk and coverage: by algebra, and by every order of equally confident examples."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebmjax.eval import selective


def brute(confidence, correct):
    """The mean over all orders of ties of the risk at n = 1, ..., N, by counting."""
    curves = []
    for order in itertools.permutations(range(len(correct))):
        if all(
            confidence[a] >= confidence[b]
            for a, b in zip(order, order[1:], strict=False)
        ):
            wrong = [not correct[i] for i in order]
            curves.append([sum(wrong[:n]) / n for n in range(1, len(wrong) + 1)])
    return np.mean(curves, axis=0)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_ties_are_an_expectation_over_their_orders(pairs):
    confidence, correct = np.array([p[0] for p in pairs]), [p[1] for p in pairs]
    expected = brute(confidence, correct)
    curve = selective.risk_coverage(confidence, correct)
    np.testing.assert_allclose(curve.risk, expected, atol=1e-12)
    n = len(correct)
    np.testing.assert_array_equal(curve.coverage, np.arange(1, n + 1) / n)
    best = min(
        np.mean([sum(not x for x in order[:k]) / k for k in range(1, n + 1)])
        for order in itertools.permutations(correct)
    )
    excess = selective.excess_aurc(confidence, correct)
    assert excess == pytest.approx(expected.mean() - best, abs=1e-12)
    assert excess >= -1e-12


def test_four_examples_by_hand():
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    correct = np.array([True, False, True, False])
    curve = selective.risk_coverage(confidence, correct)
    np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 1 / 2])
    assert selective.aurc(confidence, correct) == pytest.approx(4 / 12)
    # The best order: 0, 0, 1/3, 1/2.
    assert selective.excess_aurc(confidence, correct) == pytest.approx(1 / 8)
    for coverage, accuracy in {0.75: 2 / 3, 0.51: 2 / 3, 0.5: 1 / 2}.items():
        found = selective.accuracy_at_coverage(confidence, correct, coverage)
        assert found == pytest.approx(accuracy)


def test_the_extremes():
    rng = np.random.default_rng(0)
    correct = rng.random(1000) < 0.8
    order = correct + rng.random(1000) / 2
    assert selective.excess_aurc(order, correct) == pytest.approx(0, abs=1e-12)
    equal = selective.risk_coverage(np.zeros(1000), correct)
    np.testing.assert_allclose(equal.risk, 1 - correct.mean())  # no information
    # The paper's approximation of the best AURC, for many examples.
    r = 1 - correct.mean()
    best = selective.aurc(order, correct)
    assert best == pytest.approx(r + (1 - r) * np.log(1 - r), abs=1e-3)
    assert selective.aurc([np.inf, -np.inf], np.array([True, False])) == 0.25


def test_only_the_order_counts_and_a_coverage_is_not_rounded_up():
    rng = np.random.default_rng(1)
    confidence, correct = rng.normal(size=100), rng.random(100) < 0.7
    a = selective.risk_coverage(confidence, correct)
    b = selective.risk_coverage(np.exp(confidence), correct)
    np.testing.assert_array_equal(a.risk, b.risk)
    for percent in range(1, 101):  # 0.07 * 100 is above 7
        accuracy = selective.accuracy_at_coverage(confidence, correct, percent / 100)
        assert accuracy == 1 - a.risk[percent - 1]


@pytest.mark.parametrize(
    "confidence, correct, message",
    [
        ([0.1, 0.2], [True], r"shapes \(2,\) and \(1,\)"),
        ([], np.array([], bool), "N > 0"),
        ([0.1, np.nan], [True, False], "1 NaN of 2"),
        ([0.1, 0.2], [1, 0], "correct is int64, expected bool"),
    ],
)
def test_wrong_input(confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        selective.risk_coverage(confidence, correct)
    with pytest.raises(ValueError, match="coverage is 0"):
        selective.accuracy_at_coverage([0.1], [True], 0)
