"""Calibration errors and proper scores of a classifier: ECE, NLL, Brier.

NumPy in float64, on arrays collected from the whole data set: N examples, K
classes, labels [N] int. Every number is a fraction (papers print per cent) and
depends on the bins, so print their number and kind beside it.

Bins are (lo, hi]; a confidence of 0 is in the first and one of 1 in the last.
They come in two kinds:

* "equal_width", the usual one: `num_bins` of width 1/num_bins on [0, 1];
* "equal_mass", also called adaptive: the edges are quantiles of the confidences.
  Equal confidences are never parted, so ties make fewer and uneven bins.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from ebmjax import metrics
from ebmjax.metrics import accuracy, check_scores, nll_from_logits, of_label, softmax

# softmax, accuracy and nll_from_logits are those of `metrics`, public here too.
__all__ = [
    "Reliability",
    "reliability_diagram",
    "ece",
    "mce",
    "rms_ce",
    "classwise_ece",
    "midpoint_ece",
    "nll",
    "nll_from_logits",
    "brier",
    "accuracy",
    "top_k_accuracy",
    "softmax",
    "fit_temperature",
]


class Reliability(NamedTuple):
    """One row a bin (M of them); NaN where a bin is empty."""

    edges: np.ndarray  # [M + 1]
    counts: np.ndarray  # [M] int, they sum to N
    accuracy: np.ndarray  # [M], share that is right
    confidence: np.ndarray  # [M], mean, not the bin's midpoint


def reliability_diagram(
    probs, labels, num_bins: int = 15, binning: str = "equal_width"
) -> Reliability:
    """Accuracy against confidence, the largest probability.  [N, K], [N]."""
    probs, labels = _check_probs(probs, labels)
    correct = probs.argmax(axis=-1) == labels
    return _bin(probs.max(axis=-1), correct, num_bins, binning)


def ece(probs, labels, num_bins: int = 15, binning: str = "equal_width") -> float:
    """Expected calibration error, Σ_b n_b/N |accuracy_b - confidence_b|.

    Naeini et al. (2015); Guo et al. (2017), equation 3. JEM's and NG-EBM's
    figures have 20 bins.
    """
    return _mean_gap(reliability_diagram(probs, labels, num_bins, binning))


def mce(probs, labels, num_bins: int = 15, binning: str = "equal_width") -> float:
    """Maximum calibration error, max_b |accuracy_b - confidence_b| (Guo, eq. 5)."""
    bins = reliability_diagram(probs, labels, num_bins, binning)
    return float(np.nanmax(np.abs(bins.accuracy - bins.confidence)))


def rms_ce(probs, labels, num_bins: int = 15, binning: str = "equal_width") -> float:
    """√ Σ_b n_b/N (accuracy_b - confidence_b)² (Hendrycks et al., 2019)."""
    bins = reliability_diagram(probs, labels, num_bins, binning)
    square = (bins.accuracy - bins.confidence) ** 2
    return float(np.sqrt(np.nansum(_shares(bins) * square)))


def classwise_ece(
    probs, labels, num_bins: int = 15, binning: str = "equal_width"
) -> float:
    """Mean over classes k of the ECE of p_k against [label = k].

    Kull et al. (2019). It sees all the probabilities, `ece` only
    the largest of each row.
    """
    probs, labels = _check_probs(probs, labels)
    per_class = [
        _mean_gap(_bin(p, labels == k, num_bins, binning))
        for k, p in enumerate(probs.T)
    ]
    return float(np.mean(per_class))


def midpoint_ece(probs, labels, num_bins: int = 20) -> float:
    """The "ECE" that NG-EBM's code prints: for comparison with it, nothing else.

    A bin's confidence is its midpoint, not the mean in it, and counts start at
    1e-5. A model that is always 0.999 sure and 93 % right scores 0.045 here and
    0.069 by the definition, `ece`.
    """
    bins = reliability_diagram(probs, labels, num_bins)
    counts = bins.counts + 1e-5
    shrunk = np.nan_to_num(bins.accuracy) * bins.counts / counts
    midpoint = (bins.edges[:-1] + bins.edges[1:]) / 2
    return float(np.sum(counts / counts.sum() * np.abs(shrunk - midpoint)))


def nll(probs, labels) -> float:
    """Mean -log p(label), in nats; infinite if a label has probability 0."""
    probs, labels = _check_probs(probs, labels)
    with np.errstate(divide="ignore"):
        return float(-np.mean(np.log(of_label(probs, labels))))


def brier(probs, labels) -> float:
    """Mean of Σ_k (p_k - [label = k])², in [0, 2] (Brier, 1950)."""
    probs, labels = _check_probs(probs, labels)
    one_hot = np.arange(probs.shape[1])[None] == labels[:, None]
    return float(np.mean(np.sum((probs - one_hot) ** 2, axis=-1)))


def top_k_accuracy(scores, labels, k: int = 5) -> float:
    """Share of rows with the label among the k largest.  Logits or probs [N, K].

    Of equal entries the first counts as the larger, as for argmax.
    """
    scores, labels = check_scores(scores, labels)
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k is {k}, but there are {scores.shape[1]} classes")
    own = of_label(scores, labels)[:, None]
    earlier = np.arange(scores.shape[1])[None] < labels[:, None]
    rank = np.sum((scores > own) | (earlier & (scores == own)), axis=-1)
    return float(np.mean(rank < k))


def fit_temperature(logits, labels) -> float:
    """The T for which softmax(logits / T) has the least NLL (Guo et al., 2017).

    Fit it on validation data, use it on test data. NLL is convex in β = 1/T,
    with the derivative  mean(Σ_k p_k f_k - f_label),  whose root is found.
    """
    logits, labels = check_scores(logits, labels)
    own = of_label(logits, labels)

    def slope(beta):
        return np.mean(np.sum(softmax(beta * logits) * logits, axis=-1) - own)

    if slope(0.0) >= 0:
        raise ValueError("no temperature helps: the logits do no better than chance")
    if np.all(logits.max(axis=-1) == own):
        raise ValueError("every label has the largest logit: T would be 0")
    beta = 1.0
    while slope(beta) < 0:
        beta *= 2
    bracket, xtol = (0.0, beta), 1e-12 * beta
    return 1 / optimize.root_scalar(slope, bracket=bracket, xtol=xtol).root


def _bin(confidence, correct, num_bins, binning) -> Reliability:
    """[N] in [0, 1], [N] bool."""
    edges = _edges(confidence, num_bins, binning)
    index = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(index, minlength=len(edges) - 1)
    with np.errstate(invalid="ignore"):  # 0/0 in empty bins: NaN is what we want
        return Reliability(
            edges,
            counts,
            np.bincount(index, weights=correct, minlength=len(counts)) / counts,
            np.bincount(index, weights=confidence, minlength=len(counts)) / counts,
        )


def _edges(confidence, num_bins, binning):
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}")
    parts = np.arange(num_bins + 1) / num_bins  # exact where linspace is not: 0.3
    if binning == "equal_width":
        return parts
    if binning == "equal_mass":
        # Every edge is a confidence that occurs, so that (lo, hi] parts a sorted
        # list of different ones into lengths that differ by one at most.
        size, cuts = len(confidence), np.arange(1, num_bins)
        last = (size * cuts + num_bins - 1) // num_bins - 1  # ceil, in integers
        inner = np.unique(np.sort(confidence)[last])
        inner = inner[(inner > 0) & (inner < confidence.max())]
        return np.concatenate([[0.0], inner, [1.0]])
    raise ValueError(f"binning is {binning!r}, not 'equal_width' or 'equal_mass'")


def _shares(bins):
    return bins.counts / bins.counts.sum()


def _mean_gap(bins):
    return float(np.nansum(_shares(bins) * np.abs(bins.accuracy - bins.confidence)))


def _check_probs(probs, labels):
    """`metrics.check_probs` and `metrics.check_scores` in one."""
    metrics.check_scores(probs, labels)
    return metrics.check_probs(probs), np.asarray(labels)
