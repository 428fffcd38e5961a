"""Accuracy, NLL and softmax of logits, for training and evaluation alike.

NumPy in float64, on N examples with K classes: logits or probabilities [N, K],
labels [N] int. Larger logits and larger probabilities both mean more likely.
"""

import jax.numpy as jnp
import numpy as np
from scipy import special


def softmax(logits, temperature: float = 1.0) -> np.ndarray:
    """p(y | x) in float64, whatever the logits' precision.  [N, K] -> [N, K]."""
    return special.softmax(np.asarray(logits, np.float64) / temperature, axis=-1)


def log_density(logits) -> np.ndarray:
    """log p(x) + log Z = logsumexp_y f(x)[y], nats, in float64.  [N, K] -> [N]."""
    return np.asarray(special.logsumexp(np.asarray(logits, np.float64), axis=-1))


def accuracy(scores, labels) -> float:
    """Share of rows whose largest entry, the first of equals, is the label's."""
    scores, labels = check_scores(scores, labels)
    return float(np.mean(scores.argmax(axis=-1) == labels))


def nll_from_logits(logits, labels) -> float:
    """Mean -log p(label) in nats: finite and exact for any finite logits."""
    logits, labels = check_scores(logits, labels)
    return float(np.mean(special.logsumexp(logits, axis=-1) - of_label(logits, labels)))


def of_label(scores, labels) -> np.ndarray:
    """Each row's entry at its label.  [N, K], [N] -> [N]."""
    return np.take_along_axis(scores, labels[:, None], axis=-1)[:, 0]


def check_scores(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    """Scores as float64 [N, K] and integer labels [N].

    Raises ValueError for other shapes or dtypes, for entries that are not finite,
    and for labels outside 0..K-1.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not scores.size:
        raise ValueError(
            "expected scores [N, K] and labels [N], got shapes"
            f" {scores.shape} and {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}, expected integers")
    check_finite(scores)
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()} for {scores.shape[1]}"
            f" classes, expected 0 to {scores.shape[1] - 1}"
        )
    return scores, labels


def check_probs(probs) -> np.ndarray:
    """Rows of probabilities as float64, clipped to [0, 1].  [N, K] -> [N, K].

    Raises ValueError unless they are in [0, 1] and sum to 1, up to the rounding of
    their dtype (at least that of float32, from which they may have been cast).
    """
    probs = np.asarray(probs)
    eps = float(jnp.finfo(probs.dtype).eps) if probs.dtype.kind not in "iub" else 0.0
    probs = probs.astype(np.float64)
    check_finite(probs)
    beyond = max(-probs.min(), probs.max() - 1)
    if beyond > max(1e-6, 4 * eps):
        raise ValueError(
            f"probabilities lie in [{probs.min():.3g}, {probs.max():.3g}], expected"
            " [0, 1]: are these logits?"
        )
    off = np.abs(probs.sum(axis=-1) - 1).max()
    if off > max(1e-4, 4 * eps):  # far above rounding, far below a mistake
        raise ValueError(f"rows of probabilities sum to 1 only within {off:.2g}")
    return np.clip(probs, 0, 1)


def check_finite(array) -> None:
    """Raises ValueError if an entry is infinite or NaN."""
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{np.sum(~np.isfinite(array))} entries are not finite")
