"""Quality of samples: Fréchet distance, KID, Inception Score.

NumPy in float64, on features [N, F] or probabilities [N, K] of any network, with N
at least `MIN_SAMPLES`. The papers' FID, KID and IS are these formulas on one
particular Inception network, with 50,000 samples. With other features the numbers
compare runs with each other; they must be named after their features, and are no FID.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from ebmjax import metrics

MIN_SAMPLES = 2  # a covariance, or an unbiased MMD, of one sample does not exist


class Score(NamedTuple):
    mean: float
    std: float  # over subsets or splits, in population form


def frechet_distance(features_a, features_b) -> float:
    """Squared Fréchet distance of the Gaussians fitted to both (FID's formula).

    [N, F], [M, F]. Heusel et al. (2017), equation 6; covariances divide by N - 1.
    It shrinks as N grows: compare only at equal numbers of samples.
    """
    features_a, features_b = _check_features(features_a, features_b)
    return frechet_of_gaussians(
        features_a.mean(axis=0),
        np.atleast_2d(np.cov(features_a, rowvar=False)),
        features_b.mean(axis=0),
        np.atleast_2d(np.cov(features_b, rowvar=False)),
    )


def frechet_of_gaussians(mean_a, cov_a, mean_b, cov_b) -> float:
    """‖μ_a - μ_b‖² + tr(A + B - 2 (A B)^½).  [F], [F, F], [F], [F, F].

    Raises ValueError for other shapes.
    """
    shapes = [np.shape(a) for a in (mean_a, cov_a, mean_b, cov_b)]
    size = len(np.atleast_1d(mean_a))
    if shapes != 2 * [(size,), (size, size)]:
        raise ValueError(f"expected [F], [F, F], [F], [F, F], got shapes {shapes}")
    # A B has the eigenvalues of A^½ B A^½, which is symmetric: no complex roots.
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = np.clip(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0, None)
    distance = (
        np.sum((mean_a - mean_b) ** 2)
        + np.trace(cov_a)
        + np.trace(cov_b)
        - 2 * np.sqrt(product).sum()
    )
    return max(float(distance), 0.0)  # rounding: -1e-14 for a set and itself


def kid(
    features_a,
    features_b,
    *,
    num_subsets: int = 100,
    subset_size: int = 1_000,
    seed: int = 0,
) -> Score:
    """Kernel distance: mean of unbiased MMD² over random subsets, may be negative.

    Bińkowski et al. (2018), with the kernel (⟨a, b⟩ / F + 1)³. [N, F], [M, F];
    subsets are no larger than the smaller of the two sets. Raises ValueError for
    fewer than one subset, or subsets smaller than `MIN_SAMPLES`.
    """
    features_a, features_b = _check_features(features_a, features_b)
    if num_subsets < 1 or subset_size < MIN_SAMPLES:
        raise ValueError(
            f"num_subsets is {num_subsets} and subset_size {subset_size}, expected at"
            f" least 1 and {MIN_SAMPLES}"
        )
    rng = np.random.default_rng(seed)
    size = min(subset_size, len(features_a), len(features_b))
    distances = [
        squared_mmd(
            features_a[rng.choice(len(features_a), size, replace=False)],
            features_b[rng.choice(len(features_b), size, replace=False)],
        )
        for _ in range(num_subsets)
    ]
    return Score(float(np.mean(distances)), float(np.std(distances)))


def squared_mmd(a, b) -> float:
    """Unbiased MMD² under KID's kernel.  [N, F], [M, F], N and M at least 2."""

    def kernel(x, y):
        k = x @ y.T / x.shape[1] + 1
        return k * k * k  # ** 3 takes 200 times as long

    def mean_of_pairs(x):
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    return float(mean_of_pairs(a) + mean_of_pairs(b) - 2 * kernel(a, b).mean())


def inception_score(probs, *, num_splits: int = 10, seed: int = 0) -> Score:
    """exp of the mean of KL(p(y | x) ‖ p(y)), from 1 to K.  [N, K].

    Salimans et al. (2016). Samples are shuffled, then split; p(y) is a split's
    mean, so that a small split scores low.
    """
    _check("probs", probs)
    probs = metrics.check_probs(probs)
    if not 0 < num_splits <= len(probs):
        raise ValueError(
            f"{len(probs)} samples in {num_splits} splits: expected 1 to {len(probs)}"
            " splits"
        )
    order = np.random.default_rng(seed).permutation(len(probs))
    scores = [
        np.exp(special.rel_entr(p, p.mean(axis=0, keepdims=True)).sum(axis=-1).mean())
        for p in np.array_split(probs[order], num_splits)
    ]
    return Score(float(np.mean(scores)), float(np.std(scores)))


def _check_features(a, b):
    a, b = _check("features_a", a), _check("features_b", b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features_a has shape {a.shape} and features_b {b.shape}, expected [N, F]"
            " and [M, F]"
        )
    return a, b


def _check(name, rows):
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or len(rows) < MIN_SAMPLES:
        raise ValueError(
            f"{name} has shape {rows.shape}, expected [N, F] with N at least"
            f" {MIN_SAMPLES}"
        )
    metrics.check_finite(rows)
    return rows
