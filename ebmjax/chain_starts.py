"""Informed starts of chains: Gaussians with the moments of the training examples.

JEM++ (Yang & Ji, 2021) and its successors start chains from one Gaussian per class, or
from one of all classes, instead of from uniform noise: few steps are then enough. A
pool of starts is drawn once (`pool`), and the training step takes rows of it
(`from_pool`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import replay

CHUNK = 1024  # examples that are floats at a time
JITTER_STD = 0.01  # its square is added to the covariance's diagonal
STREAM = 2  # tells these random numbers from others of the same seed


def pool(
    seed: int,
    x: np.ndarray,
    label: np.ndarray | None,
    *,
    size: int,
    num_classes: int = 1,
    to_float: Callable[[np.ndarray], np.ndarray] = np.asarray,
    bound: float | None = None,
) -> np.ndarray:
    """At least `size` starts from Gaussians, a function of its arguments.

    Args:
      seed: of the random numbers.
      x: [N, ...], training examples as they are stored.
      label: [N] int in 0..num_classes-1: one Gaussian per class; None: one of all.
      size: starts in all, rounded up to a multiple of the number of Gaussians G.
      num_classes: G, if there are labels.
      to_float: examples as stored -> as the network takes them.
      bound: starts are clipped to [-bound, bound]; None: they are not.

    Returns float32 [G, ceil(size / G), ...]. Raises ValueError for a class without an
    example.
    """
    groups = num_classes if label is not None else 1
    count = -(-size // groups)
    starts = np.empty((groups, count, *x.shape[1:]), np.float32)
    for k in range(groups):
        index = np.arange(len(x)) if label is None else np.flatnonzero(label == k)
        if not len(index):
            raise ValueError(
                f"class {k} has no training example from which a Gaussian of chain"
                " starts could be estimated; set config.sgld.init to 'gaussian' or"
                " 'uniform'"
            )
        rng = np.random.default_rng((seed, STREAM, k))
        starts[k] = gaussian(rng, x, index, count, to_float)
    return starts if bound is None else starts.clip(-bound, bound)


def gaussian(
    rng: np.random.Generator,
    x: np.ndarray,
    index: np.ndarray,
    count: int,
    to_float: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """`count` draws from N(m, S + 1e-4 I), m and S the moments of the n rows x[index].

        m + (1/√n) Σ_i z_i (x_i - m) + 0.01 e        z_i, e standard normal

    has the covariance S = (1/n) Σ_i (x_i - m)(x_i - m)ᵀ plus the jitter, and S, which
    may be larger than the data, is never formed.  -> float32 [count, ...]
    """
    n = len(index)
    parts = np.array_split(index, -(-n // CHUNK))

    def rows(part):
        return np.asarray(to_float(x[part]), np.float32).reshape(len(part), -1)

    mean = sum(rows(part).sum(axis=0, dtype=np.float64) for part in parts) / n
    mean = mean.astype(np.float32)
    starts = np.zeros((count, len(mean)), np.float32)
    for part in parts:
        z = rng.standard_normal((count, len(part)), np.float32)
        starts += z @ (rows(part) - mean)
    starts /= np.float32(np.sqrt(n))
    starts += mean
    starts += JITTER_STD * rng.standard_normal(starts.shape, np.float32)
    return starts.reshape(count, *x.shape[1:])


def from_pool(pool: jax.Array) -> replay.ChainInit:
    """Starts from a pool [G, M, ...]: of the labels' classes, or whatever the labels if
    G = 1.

    The starts of a class are consecutive rows from a random one on, so that they are
    all different if they are at most M.
    """
    num_groups, num_rows = pool.shape[:2]

    def chain_init(key, n, labels):
        group = labels if num_groups > 1 else jnp.zeros_like(labels)
        first = jax.random.randint(key, (), 0, num_rows)
        return pool[group, (first + _rank_within(group)) % num_rows]

    return chain_init


def _rank_within(labels):
    """How many equal labels come before each.  [B] -> [B]."""
    order = jnp.argsort(labels)  # stable
    ordered = labels[order]
    rank = jnp.arange(len(labels)) - jnp.searchsorted(ordered, ordered)
    return jnp.zeros_like(rank).at[order].set(rank)
