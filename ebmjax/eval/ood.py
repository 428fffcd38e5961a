"""Out-of-distribution detection: scores of inputs, and metrics of the scores.

Scores are JAX functions of a batch, one number for each example, and **larger
always means more in-distribution**, so that no sign has to be changed later. The
metrics are NumPy on the collected scores of the two data sets: score_in [N] and
score_out [M]. They return fractions (papers print per cent), depend on nothing
but the order of the scores, and count ties exactly. Scores may be infinite; NaN
raises ValueError.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics

from ebmjax import energy, sgld
from ebmjax.eval import refinement

LogitsFn = Callable[[jax.Array], jax.Array]  # x [B, ...] -> [B, K]


def log_density(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """log p(x) + log Z = logsumexp_y f(x)[y], JEM's `px`.  [B, ...] -> [B].

    With the other sign it is the "energy score" of Liu et al. (2020).
    """
    return -energy.from_logits(_logits(logits_fn, x))


def max_log_prob(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """max_y log p(y | x), JEM's `py` (Hendrycks & Gimpel, 2017).  [B, ...] -> [B].

    It ranks as max p(y | x) does, but float32 rounds p to 1 from odds of 1e-8 on,
    and then confident examples tie. Hence log1p of the odds of all other classes.
    """
    logits = _logits(logits_fn, x)
    odds = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    top = jax.nn.one_hot(logits.argmax(axis=-1), logits.shape[-1], dtype=bool)
    return -jnp.log1p(jnp.sum(odds, axis=-1, where=~top))


def approximate_mass(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """-‖∇_x log p(x)‖₂, JEM's `pxgrad`.  [B, ...] -> [B].

    JEM draws its histograms of -log ‖·‖, which ranks alike and looks different.
    """
    return energy.approximate_mass(lambda x: energy.from_logits(logits_fn(x)), x)


def negative_entropy(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """Σ_y p(y | x) log p(y | x), from -log K to 0, with 0 log 0 = 0.  -> [B]."""
    log_probs = jax.nn.log_softmax(_logits(logits_fn, x), axis=-1)
    probs = jnp.exp(log_probs)  # 0 where a logit is -inf
    return jnp.sum(probs * jnp.where(probs == 0, 0, log_probs), axis=-1)


def max_logit(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
    """max_y f(x)[y] (Hendrycks et al., 2022).  [B, ...] -> [B]."""
    return _logits(logits_fn, x).max(axis=-1)


def tempered_log_density(temperature: float) -> Callable:
    """The score T logsumexp_y f(x)[y] / T, minus the energy of Liu et al. (2020)."""

    def score(logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
        return -temperature * energy.from_logits(_logits(logits_fn, x) / temperature)

    return score


def odin(
    logits_fn: LogitsFn,
    x: jax.Array,
    *,
    temperature: float = 1000.0,
    eps: float = 0.0014,
) -> jax.Array:
    """max_y log p_T(y | x'), p_T of logits over T, x' = x + eps sign ∇ log max p_T.

    ODIN, Liang et al. (2018), with the constants of the paper; eps is in the units
    of x.  [B, ...] -> [B].
    """

    def score(x):
        logits = _logits(logits_fn, x)
        below = (logits - logits.max(axis=-1, keepdims=True)) / temperature
        # log Σ exp(below) - log K, without the rounding of sums near K.
        return -jnp.log1p(jnp.mean(jnp.expm1(below), axis=-1))

    gradient = jax.grad(lambda x: score(x).sum())(x)
    return score(x + eps * jnp.sign(gradient))


def _logits(logits_fn, x):
    logits = logits_fn(x)
    chex.assert_rank(logits, 2)
    chex.assert_equal_shape_prefix([logits, x], 1)
    return logits


class Score(NamedTuple):
    """A score of examples, larger on those like the training data."""

    fn: Callable[[LogitsFn, jax.Array], jax.Array]  # logits_fn, x [B, ...] -> [B]; pure
    label: str  # in reports
    axis: str = ""  # below the histogram; the label if empty

    def __call__(self, logits_fn: LogitsFn, x: jax.Array) -> jax.Array:
        return self.fn(logits_fn, x)


# Called together under one jit all but ODIN, which moves x, share one forward pass:
# the compiler sees the same expression in each.
SCORES = {
    "log_density": Score(log_density, "log p(x)", "log p(x) + log Z, nats"),
    "max_log_prob": Score(max_log_prob, "max p(y | x)", "log max p(y | x), nats"),
    "approximate_mass": Score(
        approximate_mass, "approximate mass", "-‖d log p(x) / dx‖"
    ),
    "negative_entropy": Score(negative_entropy, "−entropy of p(y | x)"),
    "max_logit": Score(max_logit, "max logit"),
    "odin": Score(odin, "ODIN", "log max p(y | x) / p uniform at T = 1000"),
}


class RefinementScores(NamedTuple):
    """Changes under k SGLD steps: small where the model has its mass."""

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
    return RefinementScores(
        log_density(logits_fn, x) - log_density(logits_fn, refined),
        approximate_mass(logits_fn, x) - approximate_mass(logits_fn, refined),
        -energy.norm(refined - x),
    )


def auroc(score_in, score_out) -> float:
    """P(an in-score exceeds an out-score), ties counting half.  [N], [M].

    Which of the two is called positive makes no difference.
    """
    is_in, ranks, _ = _ranked(score_in, score_out)
    return float(metrics.roc_auc_score(is_in, ranks))


def aupr(score_in, score_out, positive: str = "in") -> float:
    """Area under precision against recall, by the average-precision rule.

    Σ_t (recall_t - recall_t-1) precision_t over all thresholds: a step function,
    as in scikit-learn. OpenOOD joins the points by straight lines instead, which
    is larger, much so with many ties. Depends on N/M, and on which is positive:
    "in" gives the AUPR-In of the literature, "out" the AUPR-Out.
    """
    is_positive, ranks, _ = _ranked(score_in, score_out, positive)
    return float(metrics.average_precision_score(is_positive, ranks))


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
        raise ValueError(f"tpr is {tpr}, expected a fraction in (0, 1]")
    roc = roc_curve(score_in, score_out, positive)
    enough = roc.true_positives / roc.true_positives[-1] >= tpr
    return float((roc.false_positives / roc.false_positives[-1])[enough.argmax()])


class Roc(NamedTuple):
    """Counts at every threshold that separates two examples, strictest first."""

    thresholds: np.ndarray  # [T]; examples at or beyond it are called positive
    true_positives: np.ndarray  # [T] int, up to all of them
    false_positives: np.ndarray  # [T] int


def roc_curve(score_in, score_out, positive: str = "in") -> Roc:
    """The operating points behind `fpr_at_tpr`, none left out.

    With `positive` "out" an example is called out-of-distribution if its score is
    at most the threshold.
    """
    is_positive, ranks, values = _ranked(score_in, score_out, positive)
    fpr, tpr, thresholds = metrics.roc_curve(
        is_positive, ranks, drop_intermediate=False
    )
    # The first point of scikit-learn's is an infinite threshold: no positives.
    return Roc(
        values[thresholds[1:].astype(int)],
        np.rint(tpr[1:] * is_positive.sum()).astype(int),
        np.rint(fpr[1:] * (~is_positive).sum()).astype(int),
    )


def _ranked(score_in, score_out, positive="in"):
    """Which examples are positive [N + M], their ranks from the most negative on,
    equal scores having equal ranks [N + M], and the score of each rank.

    Ranks instead of scores, since scikit-learn refuses infinite ones.
    """
    if positive not in ("in", "out"):
        raise ValueError(f"positive is {positive!r}, not 'in' or 'out'")
    both = []
    for name, scores in (("score_in", score_in), ("score_out", score_out)):
        scores = np.asarray(scores)
        if scores.ndim != 1 or not len(scores):
            raise ValueError(f"{name} has shape {scores.shape}, expected [N], N > 0")
        if np.isnan(scores).any():
            raise ValueError(
                f"{name} has {np.isnan(scores).sum()} NaN of {len(scores)} scores,"
                " expected numbers"
            )
        both.append(scores.astype(np.float64))
    is_in = np.repeat([True, False], [len(scores) for scores in both])
    values, ranks = np.unique(np.concatenate(both), return_inverse=True)
    if positive == "in":
        return is_in, ranks, values
    return ~is_in, len(values) - 1 - ranks, values[::-1]


def interpolations(key: jax.Array, x: jax.Array) -> jax.Array:
    """Means of pairs of images, each image in two pairs.  [N, ...] -> [N, ...].

    JEM's "interpolation" set takes a batch and the one before it; here pairs are
    neighbours in a random ring, so that no image is its own partner if N > 1.
    Floats keep their dtype; means of integers are float32, in the units of x.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    ring = jax.random.permutation(key, x)
    return (ring + jnp.roll(ring, 1, axis=0)) / 2


def uniform_noise(key, shape, bounds=(-1.0, 1.0)) -> jax.Array:
    """Images `shape` [N, H, W, C], every entry uniform between the bounds."""
    return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])


def gaussian_noise(key, shape, std: float = 1.0, bounds=(-1.0, 1.0)) -> jax.Array:
    """Every entry normal around the middle of the bounds, then clipped to them."""
    middle = (bounds[0] + bounds[1]) / 2
    return jnp.clip(middle + std * jax.random.normal(key, shape), *bounds)


def constant_images(key, shape, bounds=(-1.0, 1.0)) -> jax.Array:
    """Images of one random colour each.  `shape` is [N, H, W, C]."""
    num, *_, channels = shape
    colour = uniform_noise(key, (num, *[1] * (len(shape) - 2), channels), bounds)
    return jnp.broadcast_to(colour, shape)
