"""Is this input of the kind that was trained on?  Scores and their judges.

Scores are JAX functions of a batch, one number an example, and **larger always
means more in-distribution**, so that none has to be turned around later. The
judges are NumPy on the collected scores of the two data sets: score_in [N] and
score_out [M]. They return fractions (papers print per cent), depend on nothing
but the order of the scores, and count ties exactly.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata

from ebmjax import energy, sgld
from ebmjax.eval import refinement

LogitsFn = Callable[[jax.Array], jax.Array]  # x [B, ...] -> [B, K]


def log_density(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """log p(x) + log Z = logsumexp_y f(x)[y], JEM's `px`.  [B, ...] -> [B].

    With the other sign it is the "energy score" of Liu et al. (2020).
    """
    return -energy.from_logits(logits_fn(x))


def max_log_prob(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """max_y log p(y | x), JEM's `py` (Hendrycks & Gimpel, 2017).  [B, ...] -> [B].

    It ranks as max p(y | x) does, but float32 rounds p to 1 from odds of 1e-8 on,
    and then confident examples tie. Here the others' share itself is kept.
    """
    logits = logits_fn(x)
    odds = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    top = jax.nn.one_hot(logits.argmax(axis=-1), logits.shape[-1], dtype=bool)
    return -jnp.log1p(jnp.sum(odds, axis=-1, where=~top))


def approximate_mass(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """-‖∇_x log p(x)‖₂, JEM's `pxgrad`.  [B, ...] -> [B].

    JEM draws its histograms of -log ‖·‖, which ranks alike and looks different.
    """
    return energy.approximate_mass(lambda x: energy.from_logits(logits_fn(x)), x)


def negative_entropy(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """Σ_y p(y | x) log p(y | x), from -log K to 0.  [B, ...] -> [B]."""
    log_probs = jax.nn.log_softmax(logits_fn(x), axis=-1)
    return jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def max_logit(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """max_y f(x)[y] (Hendrycks et al., 2022).  [B, ...] -> [B]."""
    return logits_fn(x).max(axis=-1)


# Called together under one jit they share one forward pass: the compiler sees
# the same expression in each.
SCORES = {
    "log_density": log_density,
    "max_log_prob": max_log_prob,
    "approximate_mass": approximate_mass,
    "negative_entropy": negative_entropy,
    "max_logit": max_logit,
}


class RefinementScores(NamedTuple):
    """What k SGLD steps change: little, if x is where the model has its mass."""

    log_density: jax.Array  # [B], log p(x) - log p(x_k)
    grad_norm: jax.Array  # [B], ‖∇log p(x_k)‖ - ‖∇log p(x)‖
    distance: jax.Array  # [B], -‖x_k - x‖₂


def refinement_scores(
    key: jax.Array,
    logits_fn: LogitsFn,
    x: jax.Array,
    *,
    num_steps: int,
    sampler: sgld.SamplerFactory = sgld.JEM,
) -> RefinementScores:
    """`refine`, `refinegrad` and `refinel2` of JEM's code, from one chain."""
    refined = refinement.refine(key, logits_fn, x, num_steps=num_steps, sampler=sampler)
    moved = (refined - x).reshape(len(x), -1)
    return RefinementScores(
        log_density(logits_fn, x) - log_density(logits_fn, refined),
        approximate_mass(logits_fn, x) - approximate_mass(logits_fn, refined),
        -jnp.linalg.norm(moved, axis=-1),
    )


def auroc(score_in, score_out) -> float:
    """P(an in-score exceeds an out-score), ties counting half.  [N], [M].

    Which of the two is called positive makes no difference.
    """
    score_in, score_out = _check(score_in, score_out)
    n, m = len(score_in), len(score_out)
    ranks = rankdata(np.concatenate([score_in, score_out]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def aupr(score_in, score_out, positive: str = "in") -> float:
    """Area under precision against recall, by the average-precision rule.

    Σ_t (recall_t - recall_t-1) precision_t over all thresholds: a step function,
    as scikit-learn's. OpenOOD joins the points by straight lines instead, which
    is larger, much so with many ties. Depends on N/M, and on which is positive:
    "in" gives the AUPR-In of the literature, "out" the AUPR-Out.
    """
    roc = roc_curve(score_in, score_out, positive)
    precision = roc.true_positives / (roc.true_positives + roc.false_positives)
    recall = roc.true_positives / roc.true_positives[-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def fpr_at_tpr(score_in, score_out, tpr: float = 0.95, positive: str = "in") -> float:
    """Share of negatives accepted where at least `tpr` of the positives are.

    Two conventions are in use, and they differ: with scores N(1, 1²) inside and
    N(0, 2²) outside one is 0.63, the other 0.99.

    * "in": the share of out-examples that pass when 95 % of the in-examples do,
      as in the ODIN line of papers.
    * "out": the share of in-examples rejected when 95 % of the out-examples are,
      as in OpenOOD 1.5 and pytorch-ood.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is {tpr}, not in (0, 1]")
    roc = roc_curve(score_in, score_out, positive)
    enough = roc.true_positives / roc.true_positives[-1] >= tpr
    return float((roc.false_positives / roc.false_positives[-1])[enough.argmax()])


class Roc(NamedTuple):
    """Counts at every threshold that tells two examples apart, strictest first."""

    thresholds: np.ndarray  # [T]; examples at or beyond it are called positive
    true_positives: np.ndarray  # [T] int, up to all of them
    false_positives: np.ndarray  # [T] int


def roc_curve(score_in, score_out, positive: str = "in") -> Roc:
    """The operating points behind `aupr` and `fpr_at_tpr`, none left out.

    With `positive` "out" the call is "out-of-distribution, for the score is at
    most the threshold".
    """
    score_in, score_out = _check(score_in, score_out)
    if positive not in ("in", "out"):
        raise ValueError(f"positive is {positive!r}, not 'in' or 'out'")
    sign = 1 if positive == "in" else -1
    pair = (score_in, score_out)[::sign]
    positives, negatives = (np.sort(sign * scores) for scores in pair)
    thresholds = np.unique(np.concatenate([positives, negatives]))[::-1]
    return Roc(
        sign * thresholds,
        len(positives) - np.searchsorted(positives, thresholds, side="left"),
        len(negatives) - np.searchsorted(negatives, thresholds, side="left"),
    )


def _check(score_in, score_out):
    score_in, score_out = np.asarray(score_in), np.asarray(score_out)
    for name, scores in (("score_in", score_in), ("score_out", score_out)):
        if scores.ndim != 1 or not len(scores):
            raise ValueError(f"{name} has shape {scores.shape}, expected [N], N > 0")
        if np.isnan(scores).any():
            raise ValueError(f"{name} has {np.isnan(scores).sum()} NaN")
    return score_in.astype(np.float64), score_out.astype(np.float64)


def interpolations(key: jax.Array, x: jax.Array) -> jax.Array:
    """Means of pairs of images, each image in two pairs.  [N, ...] -> [N, ...].

    JEM's "interpolation" set takes a batch and the one before it; here partners
    are neighbours in a random ring, so that nobody meets itself if N > 1.
    """
    ring = jax.random.permutation(key, x)
    return (ring + jnp.roll(ring, 1, axis=0)) / 2


def uniform_noise(key, shape, bounds=(-1.0, 1.0)) -> jax.Array:
    """Images `shape` [N, H, W, C], every number uniform between the bounds."""
    return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])


def gaussian_noise(key, shape, std: float = 1.0, bounds=(-1.0, 1.0)) -> jax.Array:
    """Every number normal around the bounds' middle, then clipped to them."""
    middle = (bounds[0] + bounds[1]) / 2
    return jnp.clip(middle + std * jax.random.normal(key, shape), *bounds)


def constant_images(key, shape, bounds=(-1.0, 1.0)) -> jax.Array:
    """Images of one random colour each.  `shape` is [N, H, W, C]."""
    num, *_, channels = shape
    colour = uniform_noise(key, (num, *[1] * (len(shape) - 2), channels), bounds)
    return jnp.broadcast_to(colour, shape)
