import numpy as np
import pytest
from scipy import optimize
from sklearn import metrics

from ebmjax.eval import calibration


def rows(confidence, num_classes=2):
    """Probabilities with these largest entries, class 0 always the largest."""
    confidence = np.asarray(confidence, np.float64)
    rest = (1 - confidence)[:, None] / (num_classes - 1)
    return np.concatenate(
        [confidence[:, None], rest.repeat(num_classes - 1, axis=1)], axis=1
    )


def random_case(seed, size=500, num_classes=4, decimals=None):
    """Probabilities that are over-confident for some rows, under- for others.

    With `decimals` the confidences are coarse: ties, and values on bin edges.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, rng.uniform(0.1, 4, (size, 1)), (size, num_classes))
    probs = calibration.softmax(logits)
    if decimals is not None:
        probs = rows(np.clip(probs.max(axis=1).round(decimals), 0.5, 1), num_classes)
    return probs, rng.integers(0, num_classes, size)


def slow_ece(probs, labels, edges):
    """The definition, bin by bin and row by row."""
    total = 0.0
    for i, (lo, hi) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        members = [
            (p.max(), p.argmax() == y)
            for p, y in zip(probs, labels, strict=True)
            if lo < p.max() <= hi or (i == 0 and p.max() == 0)
        ]
        if members:
            confidence, correct = np.mean(members, axis=0)
            total += len(members) / len(probs) * abs(correct - confidence)
    return total


def test_80_percent_sure_and_60_percent_right_is_off_by_a_fifth():
    probs, labels = rows(np.full(10, 0.8)), np.array([0] * 6 + [1] * 4)
    for error in (calibration.ece, calibration.mce, calibration.rms_ce):
        assert error(probs, labels) == pytest.approx(0.2, abs=1e-12)
    # Two classes: p_1 = 0.2 against 0.4, as far off as p_0 = 0.8 against 0.6.
    assert calibration.classwise_ece(probs, labels) == pytest.approx(0.2, abs=1e-12)


def test_errors_of_both_signs_add_up_and_do_not_cancel():
    # 0.9 sure, half right: 0.4 over. 0.6 sure, all right: 0.4 under.
    probs = rows([0.9, 0.9, 0.6, 0.6])
    labels = np.array([0, 1, 0, 0])
    assert calibration.ece(probs, labels) == pytest.approx(0.4, abs=1e-12)
    # In one bin they do cancel: 0.75 sure, 0.75 right.
    assert calibration.ece(probs, labels, num_bins=1) == pytest.approx(0, abs=1e-12)


def test_mean_and_root_mean_square_and_maximum_over_four_bins():
    # Twenty bins: 0.55, 0.6, 0.65, 0.7 close four of them, and of these rows
    # 2 of 2, 3 of 6, 1 of 1 and 0 of 1 are right.
    probs = rows([0.55] * 2 + [0.6] * 6 + [0.65] + [0.7], num_classes=5)
    labels = np.array([0] * 5 + [1] * 3 + [0] + [1])
    diagram = calibration.reliability_diagram(probs, labels, 20)
    np.testing.assert_array_equal(diagram.counts[10:14], [2, 6, 1, 1])
    gaps = np.array([0.45, 0.1, 0.35, 0.7])
    share = np.array([0.2, 0.6, 0.1, 0.1])
    np.testing.assert_allclose(calibration.ece(probs, labels, 20), share @ gaps)
    np.testing.assert_allclose(calibration.mce(probs, labels, 20), 0.7)
    np.testing.assert_allclose(
        calibration.rms_ce(probs, labels, 20), np.sqrt(share @ gaps**2)
    )


def test_bins_are_open_below_and_closed_above():
    # Ten bins: 0.6, 0.7, 0.8 and 0.9 close theirs, 1 is in the last.
    diagram = calibration.reliability_diagram(
        rows([0.6, 0.7, 0.8, 0.9, 1.0, np.nextafter(0.9, 1)]), np.zeros(6, int), 10
    )
    np.testing.assert_array_equal(diagram.counts, [0] * 5 + [1, 1, 1, 1, 2])
    assert diagram.confidence[5] == 0.6 and np.isnan(diagram.confidence[0])


def test_confidences_of_zero_are_in_the_first_bin():
    # Class by class: p_0 is 1 and right 3 times of 4; p_1 is 0 and right once;
    # p_2 is 0 and never right. Class-wise: (1/4 + 1/4 + 0) / 3.
    probs = np.tile([1.0, 0.0, 0.0], (4, 1))
    labels = np.array([0, 0, 0, 1])
    assert calibration.classwise_ece(probs, labels) == pytest.approx(1 / 6, abs=1e-12)
    assert calibration.ece(probs, labels) == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 1, 2])
@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_the_fast_ece_is_the_slow_one(binning, decimals):
    for seed in range(5):
        probs, labels = random_case(seed, decimals=decimals)
        edges = calibration.reliability_diagram(probs, labels, 10, binning).edges
        np.testing.assert_allclose(
            calibration.ece(probs, labels, 10, binning),
            slow_ece(probs, labels, edges),
            rtol=1e-12,
        )


def test_equal_mass_bins_have_equal_mass():
    probs, labels = random_case(0, size=64)
    for num_bins in (1, 4, 7, 15):
        counts = calibration.reliability_diagram(
            probs, labels, num_bins, "equal_mass"
        ).counts
        assert len(counts) == num_bins and counts.sum() == 64
        assert counts.max() - counts.min() <= 1


def test_equal_mass_bins_do_not_part_ties():
    # Quartiles of 0.6, 0.6, 0.6, 0.6, 0.6, 0.7, 0.8, 1: two of them are 0.6.
    probs = rows([0.6] * 5 + [0.7, 0.8, 1.0])
    diagram = calibration.reliability_diagram(
        probs, np.zeros(8, int), 4, binning="equal_mass"
    )
    np.testing.assert_array_equal(diagram.edges, [0, 0.6, 0.7, 1])
    np.testing.assert_array_equal(diagram.counts, [5, 1, 2])
    # All alike, even at 1: one bin, and it is not empty.
    ones = calibration.reliability_diagram(
        rows([1.0] * 3), np.zeros(3, int), 4, binning="equal_mass"
    )
    np.testing.assert_array_equal(ones.counts, [3])


def test_classwise_ece_averages_the_ece_of_two_class_problems():
    probs, labels = random_case(3, num_classes=3)
    edges = np.arange(16) / 15
    expected = 0.0
    for k in range(3):
        for lo, hi in zip(edges[:-1], edges[1:], strict=True):
            inside = (probs[:, k] > lo) & (probs[:, k] <= hi)
            if inside.any():
                gap = np.mean(labels[inside] == k) - np.mean(probs[inside, k])
                expected += inside.mean() * abs(gap) / 3
    np.testing.assert_allclose(calibration.classwise_ece(probs, labels), expected)


def test_midpoint_ece_has_the_bias_that_its_docstring_says():
    probs, labels = rows(np.full(100, 0.999)), np.array([0] * 93 + [1] * 7)
    np.testing.assert_allclose(
        calibration.midpoint_ece(probs, labels), 0.045, atol=1e-4
    )
    np.testing.assert_allclose(calibration.ece(probs, labels), 0.069, rtol=1e-9)


def test_midpoint_ece_is_what_that_code_computes():
    probs, labels = random_case(7)
    count, right = np.full(20, 1e-5), np.zeros(20)
    for p, y in zip(probs, labels, strict=True):
        b = np.digitize(p.max(), np.arange(20) * 0.05 + 0.05 + 1e-10)
        count[b] += 1
        right[b] += p.argmax() == y
    midpoint = np.arange(20) / 20 + 0.025
    expected = np.sum(count / count.sum() * np.abs(right / count - midpoint))
    np.testing.assert_allclose(calibration.midpoint_ece(probs, labels), expected)


def test_the_diagram_of_a_calibrated_classifier_is_the_diagonal():
    rng = np.random.default_rng(0)
    probs = rows(rng.uniform(0.5, 1, 200_000))
    labels = (rng.random(len(probs)) > probs[:, 0]).astype(int)
    diagram = calibration.reliability_diagram(probs, labels, 10)
    full = diagram.counts > 0
    np.testing.assert_array_equal(full, [False] * 5 + [True] * 5)
    error = diagram.accuracy[full] - diagram.confidence[full]
    np.testing.assert_allclose(error, 0, atol=0.01)  # 4 standard errors of a bin
    # A tenth of over-confidence is seen: the bound above could have failed.
    sharper = rows(np.minimum(probs[:, 0] * 1.1, 1))
    assert calibration.ece(sharper, labels, 10) > 0.05 > calibration.ece(probs, labels)


@pytest.mark.parametrize("seed", range(3))
def test_nll_and_brier_and_top_k_agree_with_scikit_learn(seed):
    probs, labels = random_case(seed, num_classes=6)
    classes = np.arange(6)
    np.testing.assert_allclose(
        calibration.nll(probs, labels), metrics.log_loss(labels, probs, labels=classes)
    )
    np.testing.assert_allclose(
        calibration.brier(probs, labels),
        metrics.brier_score_loss(labels, probs, labels=classes, scale_by_half=False),
    )
    for k in (1, 3, 5):
        np.testing.assert_allclose(
            calibration.top_k_accuracy(probs, labels, k),
            metrics.top_k_accuracy_score(labels, probs, k=k, labels=classes),
        )


def test_brier_runs_from_0_to_2():
    one_hot = np.eye(3)
    assert calibration.brier(one_hot, np.array([0, 1, 2])) == 0
    assert calibration.brier(one_hot, np.array([1, 2, 0])) == 2
    np.testing.assert_allclose(
        calibration.brier(np.full((3, 3), 1 / 3), np.array([0, 1, 2])), 2 / 3
    )


def test_ties_go_to_the_first_class():
    logits = np.zeros((3, 3))
    labels = np.array([0, 1, 2])
    assert calibration.accuracy(logits, labels) == pytest.approx(1 / 3)
    assert calibration.top_k_accuracy(logits, labels, k=2) == pytest.approx(2 / 3)


def test_nll_from_logits_is_exact_where_probabilities_saturate():
    # float32 says p = 1 for the first row and p = 0 for the second.
    logits = np.array([[30, 0], [0, 800]], np.float32)
    assert calibration.nll_from_logits(logits[:1], [0]) == pytest.approx(
        np.log1p(np.exp(-30)), rel=1e-3
    )
    assert calibration.nll_from_logits(logits[1:], [0]) == 800
    assert calibration.nll([[0.0, 1.0]], [0]) == np.inf


def test_nll_from_logits_is_nll():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (50, 4)), rng.integers(0, 4, 50)
    np.testing.assert_allclose(
        calibration.nll_from_logits(logits, labels),
        calibration.nll(calibration.softmax(logits), labels),
    )


def test_the_temperature_of_a_classifier_sharpened_threefold_is_three():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (40_000, 5))
    labels = np.array([rng.choice(5, p=p) for p in calibration.softmax(logits)])
    temperature = calibration.fit_temperature(3 * logits, labels)
    np.testing.assert_allclose(temperature, 3, rtol=0.03)
    before = calibration.ece(calibration.softmax(3 * logits), labels)
    after = calibration.ece(calibration.softmax(3 * logits, temperature), labels)
    assert before > 0.1 > 0.01 > after


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_temperature_is_the_minimum_of_nll(scale):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    logits = scale * (rng.normal(0, 2, (200, 3)) + np.eye(3)[labels])

    def loss(log_temperature):
        return calibration.nll_from_logits(logits / np.exp(log_temperature), labels)

    temperature = calibration.fit_temperature(logits, labels)
    middle = np.log(scale)
    other = optimize.minimize_scalar(loss, bracket=(middle, middle + 1), tol=1e-10)
    np.testing.assert_allclose(np.log(temperature), other.x, atol=1e-6)


def test_a_temperature_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="chance"):
        calibration.fit_temperature([[1.0, 0.0]], [1])
    with pytest.raises(ValueError, match="T would be 0"):
        calibration.fit_temperature([[1.0, 0.0]], [0])


@pytest.mark.parametrize(
    "probs, labels, message",
    [
        ([[0.5, 0.5]], [[0]], "expected"),
        ([0.5, 0.5], [0, 0], "expected"),
        (np.zeros((0, 2)), np.zeros(0, int), "expected"),
        ([[0.5, 0.4]], [0], "sum to 1"),
        ([[3.0, -2.0]], [0], "logits"),
        ([[np.nan, 0.5]], [0], "finite"),
        ([[0.5, 0.5]], [2], "from 2 to 2 for 2 classes"),
        ([[0.5, 0.5]], [-1], "classes"),
        ([[0.5, 0.5]], [0.0], "integers"),
    ],
)
def test_wrong_inputs_are_named(probs, labels, message):
    for function in (calibration.ece, calibration.nll, calibration.brier):
        with pytest.raises(ValueError, match=message):
            function(probs, labels)


def test_wrong_settings_are_named():
    probs, labels = rows([0.8]), [0]
    with pytest.raises(ValueError, match="adaptive"):
        calibration.ece(probs, labels, binning="adaptive")
    with pytest.raises(ValueError, match="num_bins is 0"):
        calibration.ece(probs, labels, num_bins=0)
    with pytest.raises(ValueError, match="k is 3"):
        calibration.top_k_accuracy(probs, labels, k=3)


def test_float32_probabilities_of_many_classes_are_accepted():
    rng = np.random.default_rng(0)
    probs = calibration.softmax(rng.normal(0, 5, (100, 1000)))
    labels = rng.integers(0, 1000, 100)
    np.testing.assert_allclose(
        calibration.nll(probs.astype(np.float32), labels),
        calibration.nll(probs, labels),
        rtol=1e-6,
    )
