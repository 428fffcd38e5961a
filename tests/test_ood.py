import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from scipy.stats import norm
from sklearn import metrics

from ebmjax import sgld
from ebmjax.eval import feature_scores, ood


def langevin(step_size, noise_std):
    return functools.partial(sgld.sgld, step_size=step_size, noise_std=noise_std)


def gaussians(size=200_000, std_out=1.0):
    """Scores N(1, 1) inside, N(0, std_out²) outside."""
    rng = np.random.default_rng(0)
    return rng.normal(1, 1, size), rng.normal(0, std_out, size)


def tied(seed):
    """Small unequal sets of few different scores."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, 2)
    return rng.integers(2, 9, sizes[0]) / 4, rng.integers(0, 8, sizes[1]) / 4


# --- judges ----------------------------------------------------------------


def test_auroc_of_two_gaussians():
    # The difference of a pair is N(1, 2), so P(difference > 0) = Φ(1/√2) = 0.760.
    score_in, score_out = gaussians()
    expected = norm.cdf(0.5**0.5)
    np.testing.assert_allclose(ood.auroc(score_in, score_out), expected, atol=3e-3)
    np.testing.assert_allclose(ood.auroc(score_out, score_in), 1 - expected, atol=3e-3)


def test_fpr_of_two_gaussians_both_ways():
    score_in, score_out = gaussians(std_out=2.0)
    pass_95 = 1 + norm.ppf(0.05)
    np.testing.assert_allclose(
        ood.fpr_at_tpr(score_in, score_out), 1 - norm.cdf(pass_95 / 2), atol=5e-3
    )
    catch_95 = 2 * norm.ppf(0.95)
    np.testing.assert_allclose(
        ood.fpr_at_tpr(score_in, score_out, positive="out"),
        norm.cdf(catch_95 - 1),
        atol=5e-3,
    )


def test_constant_scores_are_a_coin():
    assert ood.auroc(np.zeros(3), np.zeros(5)) == 0.5
    assert ood.aupr(np.zeros(3), np.zeros(5)) == 3 / 8  # the share of positives
    assert ood.aupr(np.zeros(3), np.zeros(5), positive="out") == 5 / 8
    assert ood.fpr_at_tpr(np.zeros(3), np.zeros(5)) == 1


@pytest.mark.parametrize("positive", ["in", "out"])
def test_separated_scores_are_perfect(positive):
    score_in, score_out = np.array([3.0, 4.0]), np.array([0.0, 1.0, 2.0])
    assert ood.auroc(score_in, score_out) == 1
    assert ood.aupr(score_in, score_out, positive) == 1
    assert ood.fpr_at_tpr(score_in, score_out, 1.0, positive) == 0


@pytest.mark.parametrize("seed", range(20))
def test_auroc_is_the_share_of_pairs_to_the_last_digit(seed):
    score_in, score_out = tied(seed)
    wins = sum(
        1.0 if a > b else 0.5 if a == b else 0.0 for a in score_in for b in score_out
    )
    pairs = len(score_in) * len(score_out)
    np.testing.assert_array_almost_equal_nulp(
        ood.auroc(score_in, score_out), wins / pairs, nulp=4
    )


@pytest.mark.parametrize("positive, sign", [("in", 1), ("out", -1)])
@pytest.mark.parametrize("seed", range(20))
def test_aupr_and_the_curve_are_those_of_a_loop_over_thresholds(seed, positive, sign):
    score_in, score_out = tied(seed)
    positives, negatives = (sign * s for s in (score_in, score_out)[::sign])
    thresholds = sorted({*positives, *negatives}, reverse=True)
    area, recall = 0.0, 0.0
    roc = ood.roc_curve(score_in, score_out, positive)
    np.testing.assert_array_equal(roc.thresholds, sign * np.array(thresholds))
    for i, t in enumerate(thresholds):
        true, false = np.sum(positives >= t), np.sum(negatives >= t)
        assert (roc.true_positives[i], roc.false_positives[i]) == (true, false)
        area += (true / len(positives) - recall) * true / (true + false)
        recall = true / len(positives)
    assert roc.true_positives.dtype.kind == "i"
    np.testing.assert_allclose(
        ood.aupr(score_in, score_out, positive), area, rtol=1e-14
    )


@pytest.mark.parametrize("seed", range(20))
def test_with_ties_they_agree_with_scikit_learn_on_the_scores_themselves(seed):
    score_in, score_out = tied(seed)
    is_in = np.concatenate([np.ones_like(score_in), np.zeros_like(score_out)])
    scores = np.concatenate([score_in, score_out])
    assert ood.auroc(score_in, score_out) == metrics.roc_auc_score(is_in, scores)
    for positive, labels, sign in (("in", is_in, 1), ("out", 1 - is_in, -1)):
        assert ood.aupr(
            score_in, score_out, positive
        ) == metrics.average_precision_score(labels, sign * scores)


def test_scores_that_differ_in_the_last_digit_are_not_ties():
    a = np.float64(0.1)
    assert ood.auroc([np.nextafter(a, 1)], [a]) == 1
    assert ood.auroc([np.nextafter(a, 0)], [a]) == 0


@pytest.mark.parametrize("seed", range(20))
def test_fpr_is_the_smallest_over_all_thresholds(seed):
    score_in, score_out = tied(seed)
    for tpr in (0.05, 0.5, 0.95, 1.0):
        passing = [
            np.mean(score_out >= t)
            for t in np.concatenate([score_in, score_out])
            if np.mean(score_in >= t) >= tpr
        ]
        assert ood.fpr_at_tpr(score_in, score_out, tpr) == min(passing)
        rejecting = [
            np.mean(score_in <= t)
            for t in np.concatenate([score_in, score_out])
            if np.mean(score_out <= t) >= tpr
        ]
        assert ood.fpr_at_tpr(score_in, score_out, tpr, "out") == min(rejecting)


def test_nineteen_of_twenty_are_95_percent():
    # 0.95 * 20 in floating point must not become "more than 19".
    score_in = np.concatenate([[0.0], np.ones(19)])
    assert ood.fpr_at_tpr(score_in, np.full(4, 0.5)) == 0


def test_infinite_scores_are_ranked_and_nan_is_refused():
    assert ood.auroc([np.inf, 1.0], [-np.inf, 0.0]) == 1
    with pytest.raises(ValueError, match="score_out has 1 NaN"):
        ood.auroc([1.0], [np.nan])


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match="score_in has shape"):
        ood.aupr(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="score_out has shape"):
        ood.fpr_at_tpr(np.zeros(3), np.zeros(0))
    with pytest.raises(ValueError, match="'ood'"):
        ood.aupr(np.zeros(3), np.zeros(3), positive="ood")
    with pytest.raises(ValueError, match="tpr is 95"):
        ood.fpr_at_tpr(np.zeros(3), np.zeros(3), tpr=95)


# --- scores ----------------------------------------------------------------


def test_scores_of_known_logits():
    logits = np.log([[0.7, 0.2, 0.1], [2.0, 2.0, 2.0]])  # sums 1 and 6

    def constant(x):
        return jnp.asarray(logits) + 0 * x[:, :1] * jnp.ones((1, 3))

    scores = {
        name: jax.jit(functools.partial(score, constant))(jnp.zeros((2, 4)))
        for name, score in ood.SCORES.items()
    }
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    tempered = special.softmax(logits[0] / 1000)
    expected = {
        "log_density": [0, np.log(6)],
        "max_log_prob": np.log([0.7, 1 / 3]),
        "approximate_mass": [0, 0],
        "negative_entropy": [-entropy, -np.log(3)],
        "max_logit": np.log([0.7, 2.0]),
        "odin": np.log([3 * tempered[0], 1]),  # of p / (1/3) at T = 1000
    }
    assert scores.keys() == expected.keys()
    for name, score in scores.items():
        np.testing.assert_allclose(score, expected[name], rtol=1e-6, atol=1e-6)


def test_approximate_mass_of_a_linear_model_is_its_slope():
    # One class: log p(x) = wᵀx, so the mass is -‖w‖ wherever x is.
    w = jnp.array([[3.0], [4.0]])
    mass = ood.approximate_mass(lambda x: x @ w, jnp.ones((5, 2)))
    np.testing.assert_allclose(mass, np.full(5, -5), rtol=1e-6)


def test_max_log_prob_tells_apart_what_float32_calls_certain():
    gaps = np.array([10.0, 17.0, 30.0, 60.0])
    logits = np.stack([gaps + 5, np.full(4, 5)], axis=1).astype(np.float32)
    scores = ood.max_log_prob(lambda x: x, jnp.asarray(logits))
    np.testing.assert_allclose(scores, -np.log1p(np.exp(-gaps)), rtol=1e-5)
    assert np.all(np.diff(scores) > 0)
    probs = jax.nn.softmax(jnp.asarray(logits)).max(axis=-1)
    assert np.sum(probs == 1) == 3  # which would be three ties


def test_all_scores_but_odin_together_cost_one_forward_and_one_backward_pass():
    w = jnp.ones((4, 3))
    together = {k: score for k, score in ood.SCORES.items() if k != "odin"}

    def all_scores(x):
        return {name: score(lambda x: x @ w, x) for name, score in together.items()}

    compiled = jax.jit(all_scores).lower(jnp.ones((2, 4))).compile()
    assert compiled.as_text().count(" dot(") <= 2


def test_refinement_scores_of_a_quadratic_energy():
    # f(x) = -a x²/2, no noise: x_k = x (1 - a)^k.
    a, k = 0.3, 3
    x = jnp.array([[1.0], [-2.0]])
    scores = ood.refinement_scores(
        jax.random.key(0),
        lambda x: -a / 2 * x**2,
        x,
        num_steps=k,
        sampler=langevin(1.0, 0.0),
    )
    x, shrink = np.array([1.0, 2.0]), (1 - a) ** k
    np.testing.assert_allclose(
        scores.log_density, -a / 2 * x**2 * (1 - shrink**2), rtol=1e-5
    )
    np.testing.assert_allclose(scores.grad_norm, -a * x * (1 - shrink), rtol=1e-5)
    np.testing.assert_allclose(scores.distance, -x * (1 - shrink), rtol=1e-5)


def test_larger_means_more_like_the_data():
    """A mixture of two narrow Gaussians, seen at its modes and far from them."""
    modes = jnp.array([[1.0, 1.0], [-1.0, -1.0]])

    def logits_fn(x):
        return -5 * jnp.sum((x[:, None] - modes[None]) ** 2, axis=-1)

    data = modes + 0.05
    far = jnp.array([[1.0, -0.9], [-0.8, 1.0]])  # unlikely, and between the classes

    @jax.jit
    def all_scores(x):
        refined = ood.refinement_scores(
            jax.random.key(0),
            logits_fn,
            x,
            num_steps=5,
            sampler=langevin(0.05, 0.01),
        )
        plain = {name: score(logits_fn, x) for name, score in ood.SCORES.items()}
        return {**plain, **{f"refined {k}": v for k, v in refined._asdict().items()}}

    inside, outside = all_scores(data), all_scores(far)
    assert len(inside) == 9
    for name in inside:
        assert np.min(inside[name]) > np.max(outside[name]), name


def test_entropy_and_confidence_of_classes_that_are_ruled_out():
    logits = jnp.log(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))  # with -inf
    entropy = ood.negative_entropy(lambda x: x, logits)
    np.testing.assert_allclose(entropy, [-np.log(2), 0], atol=1e-6)
    confidence = ood.max_log_prob(lambda x: x, logits)
    np.testing.assert_allclose(confidence, [-np.log(2), 0], atol=1e-6)


@pytest.mark.parametrize("score", ood.SCORES)
def test_nan_logits_have_nan_scores(score):
    """None may look in-distribution: the metrics refuse NaN."""
    w = jnp.array([[jnp.nan, 1.0], [0.0, 2.0]])
    assert np.isnan(ood.SCORES[score](lambda x: x @ w, jnp.ones((3, 2)))).all()


@pytest.mark.parametrize("score", ood.SCORES)
def test_logits_of_another_shape_are_refused(score):
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        ood.SCORES[score](lambda x: x.sum(axis=1), jnp.ones((3, 2)))


# --- image sets ------------------------------------------------------------


def test_interpolations_are_means_of_two_different_images():
    # Powers of two: every sum of two names its pair.
    x = 2.0 ** jnp.arange(8)[:, None, None, None] * jnp.ones((1, 2, 2, 1))
    means = np.asarray(ood.interpolations(jax.random.key(0), x))
    assert means.shape == x.shape
    bits = [f"{int(2 * v):b}".count("1") for v in means[:, 0, 0, 0]]
    assert bits == [2] * 8  # twice an image would be a single bit
    np.testing.assert_allclose(means.sum(0), x.sum(0))  # each in two pairs
    assert (means == means[:, :1, :1]).all()  # pairs of images, not of pixels


def test_interpolations_of_bytes_are_those_of_floats():
    x = np.random.default_rng(0).integers(150, 256, (8, 2, 2, 1), np.uint8)
    key = jax.random.key(0)
    means = ood.interpolations(key, x)
    assert means.dtype == jnp.float32 and means.min() >= 150
    np.testing.assert_array_equal(means, ood.interpolations(key, x.astype(np.float32)))
    half = ood.interpolations(key, jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_noise_and_constant_images():
    shape = (200, 4, 4, 3)
    uniform, normal, wide, constant = (
        np.asarray(jax.jit(images)(jax.random.key(0)))
        for images in (
            lambda key: ood.uniform_noise(key, shape),
            lambda key: ood.gaussian_noise(key, shape, std=0.2),
            lambda key: ood.gaussian_noise(key, shape, std=1.0, bounds=(0, 1)),
            lambda key: ood.constant_images(key, shape),
        )
    )
    assert uniform.min() >= -1 and uniform.max() < 1
    np.testing.assert_allclose(uniform.std(), 1 / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(normal.std(), 0.2, rtol=0.03)
    assert wide.min() == 0 and wide.max() == 1
    np.testing.assert_allclose(wide.mean(), 0.5, atol=0.02)
    assert constant.shape == shape
    assert (constant == constant[:, :1, :1]).all()
    assert len(np.unique(constant)) == 200 * 3


def test_odin_moves_inputs_towards_certainty():
    w = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    x = jnp.array([[0.3, -0.2], [1.0, 0.1]])

    def top(x, temperature):
        return jax.nn.log_softmax(x @ w / temperature).max(-1)

    sign = jnp.sign(jax.grad(lambda x: top(x, 10.0).sum())(x))
    found = ood.odin(lambda x: x @ w, x, temperature=10.0, eps=0.2)
    np.testing.assert_allclose(
        found, top(x + 0.2 * sign, 10.0) + np.log(2), rtol=1e-4, atol=1e-6
    )
    assert np.all(found > ood.odin(lambda x: x @ w, x, temperature=10.0, eps=0.0))


def test_tempered_energy():
    x = jnp.array([[1.0, 2.0, -1.0]])
    expected = 2 * np.log(np.exp(np.asarray(x) / 2).sum(-1))
    np.testing.assert_allclose(
        ood.tempered_log_density(2.0)(lambda x: x, x), expected, rtol=1e-6
    )


def random_features():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 200)
    mix = rng.normal(size=(5, 5))
    train = rng.normal(size=(200, 5)) @ mix + 2 * label[:, None]
    return train, label, rng.normal(size=(30, 5)) @ mix


def test_mahalanobis_is_the_distance_to_the_nearest_class():
    train, label, x = random_features()
    means = [train[label == c].mean(0) for c in range(3)]
    centred = train - np.stack(means)[label]
    inverse = np.linalg.inv(centred.T @ centred / len(train))
    expected = [-min((f - m) @ inverse @ (f - m) for m in means) for f in x]
    found = feature_scores.mahalanobis(train, label, x)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    constant = np.pad(train, ((0, 0), (0, 1)))  # a feature that does not vary
    again = feature_scores.mahalanobis(constant, label, np.pad(x, ((0, 0), (0, 1))))
    np.testing.assert_allclose(again, expected, rtol=1e-6)


def test_features_that_do_not_vary_at_all_have_no_distance():
    train, label, _ = random_features()
    found = feature_scores.mahalanobis(np.ones_like(train), label, np.ones((4, 5)))
    np.testing.assert_array_equal(found, 0)


def test_the_kth_nearest_neighbour_of_unit_features():
    train, _, x = random_features()
    unit = [a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (train, x)]
    distance = np.sort(np.linalg.norm(unit[1][:, None] - unit[0][None], axis=-1))
    found = feature_scores.nearest_neighbour(train, x, k=7)
    np.testing.assert_allclose(found, -distance[:, 6], rtol=1e-6)
