import numpy as np
import pytest
from scipy import linalg

from ebmjax.eval import frechet


def spd(rng, size):
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


def test_distance_of_gaussians_with_diagonal_covariances():
    # Σ (μ - ν)² + (σ - τ)²
    distance = frechet.frechet_of_gaussians(
        np.array([0.0, 1.0]), np.diag([4.0, 1.0]), np.array([3.0, 1.0]), np.diag([9, 1])
    )
    np.testing.assert_allclose(distance, 9 + 1)


def test_distance_against_scipys_matrix_root():
    rng = np.random.default_rng(0)
    a, b, mean = spd(rng, 5), spd(rng, 5), rng.normal(size=5)
    expected = np.sum(mean**2) + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    np.testing.assert_allclose(
        frechet.frechet_of_gaussians(mean, a, np.zeros(5), b), expected
    )


def test_distance_of_a_set_with_itself_is_zero_also_with_fewer_images_than_features():
    features = np.random.default_rng(0).normal(size=(20, 50))
    assert 0 <= frechet.frechet_distance(features, features) < 1e-6
    assert 0 <= frechet.frechet_distance(features, features[::-1]) < 1e-6


def test_distance_from_features_and_a_shift():
    features = np.random.default_rng(0).normal(size=(500, 3))
    shifted = features + np.array([[1.0, 2.0, 2.0]])
    np.testing.assert_allclose(frechet.frechet_distance(features, shifted), 9)
    np.testing.assert_allclose(
        frechet.frechet_distance(features, 3 * features),
        np.sum((2 * features.mean(0)) ** 2) + 4 * features.var(0, ddof=1).sum(),
    )
    assert frechet.frechet_distance(features[:, :1], shifted[:, :1]) == pytest.approx(1)


def test_squared_mmd_against_a_plain_double_loop():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(1, 2, size=(4, 3))

    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 3 + 1) ** 3

    aa = np.mean([k(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    bb = np.mean([k(b[i], b[j]) for i in range(4) for j in range(4) if i != j])
    ab = np.mean([k(x, y) for x in a for y in b])
    np.testing.assert_allclose(frechet.squared_mmd(a, b), aa + bb - 2 * ab)


def test_kid_is_unbiased_about_zero_for_one_distribution_and_not_for_two():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2_000, 4))
    same = frechet.kid(a, b, num_subsets=50, subset_size=200)
    other = frechet.kid(a, b + 0.5, num_subsets=50, subset_size=200)
    assert abs(same.mean) < same.std
    assert other.mean > 10 * abs(same.mean)
    assert same == frechet.kid(a, b, num_subsets=50, subset_size=200)  # by the seed


def test_inception_score_is_one_for_the_unsure_and_k_for_sure_and_even():
    assert frechet.inception_score(np.full((100, 5), 0.2)).mean == pytest.approx(1)
    sure = np.eye(5)[np.arange(500) % 5]
    one = frechet.inception_score(sure, num_splits=1)
    assert one == pytest.approx((5, 0))
    # Uneven splits: p(y) is each split's own.
    assert 4.5 < frechet.inception_score(sure).mean < 5


def test_inception_score_of_one_split_by_hand():
    probs = np.array([[0.9, 0.1], [0.3, 0.7]])
    mean = probs.mean(axis=0)
    kl = [
        sum(p * np.log(p / q) for p, q in zip(row, mean, strict=True)) for row in probs
    ]
    score = frechet.inception_score(probs, num_splits=1)
    np.testing.assert_allclose(score.mean, np.exp(np.mean(kl)))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: frechet.frechet_distance(np.zeros(3), np.zeros((3, 1))), "N, F"),
        (lambda: frechet.kid(np.full((3, 2), np.nan), np.zeros((3, 2))), "finite"),
        (lambda: frechet.inception_score(np.full((3, 2), 2.0)), "logits"),
        (lambda: frechet.inception_score(np.full((3, 2), 0.5)), "3 samples in 10"),
        (lambda: frechet.inception_score(np.full((1, 2), 0.5)), "N at least 2"),
        (
            lambda: frechet.kid(np.zeros((1, 2)), np.zeros((3, 2))),
            "features_a has shape",
        ),
        (
            lambda: frechet.kid(np.zeros((3, 2)), np.zeros((1, 2))),
            "features_b has shape",
        ),
        (lambda: frechet.frechet_distance(np.zeros((3, 2)), np.zeros((3, 1))), "M, F"),
        (
            lambda: frechet.kid(np.zeros((3, 2)), np.zeros((3, 2)), subset_size=1),
            "at least 1 and 2",
        ),
        (
            lambda: frechet.kid(np.zeros((3, 2)), np.zeros((3, 2)), num_subsets=0),
            "at least 1 and 2",
        ),
        (
            lambda: frechet.frechet_of_gaussians(
                np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)
            ),
            "got shapes",
        ),
    ],
)
def test_what_cannot_be_scored_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
