"""Chains, extremes and nearest neighbours: what a report shows of a model.

Pictures are selected by index, so that a report can say how they were chosen.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import sgld


class Chains(NamedTuple):
    x: jax.Array  # [B, ...], where the chains end; not clipped
    energy: jax.Array  # [B, S + 1], from the start to the end


def chains(
    key: jax.Array,
    energy_fn: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    num_steps: int,
    sampler: sgld.SamplerFactory = sgld.JEM,
) -> Chains:
    """`num_steps` (S) steps of `sampler` from `start` [B, ...], with their energies."""
    chain = sampler(energy_fn)

    def step(state, key):
        new, info = chain.step(key, state)
        known = getattr(info, "energy", None)
        return new, energy_fn(state.position) if known is None else known

    keys = jax.random.split(key, num_steps)
    state, energies = jax.lax.scan(step, chain.init(start), keys)
    last = energy_fn(state.position)[None]
    return Chains(state.position, jnp.concatenate([energies, last]).T)


def extremes(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the `count` largest, and of as many smallest, both from the
    extreme inwards.  [N] -> two [count]; fewer if N is. NaN raises ValueError."""
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN")
    order = np.argsort(scores, kind="stable")
    return order[::-1][:count], order[:count]


def extremes_per_class(
    scores: np.ndarray, labels: np.ndarray, count: int
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """`extremes` among the examples of each label that occurs.  [N], [N]."""
    selected = {}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        best, worst = extremes(scores[members], count)
        selected[int(label)] = members[best], members[worst]
    return selected


def nearest(x: np.ndarray, train: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` training images nearest to each of x, in L2.

    x [N, ...], train [M, ...], in the same units (uint8 or float) -> [N, count].
    A sample that nearly equals one of them was memorised. Raises ValueError where
    shapes differ, or one of the two is uint8 and the other not.
    """
    if x.shape[1:] != train.shape[1:] or (x.dtype == "u1") != (train.dtype == "u1"):
        raise ValueError(
            f"x is {x.dtype} {x.shape} and train {train.dtype} {train.shape}, expected"
            " images of one shape in the same units"
        )
    x = x.reshape(len(x), -1).astype(np.float32)
    squares = []
    for part in np.array_split(train, max(1, train.size // 2**24)):  # 64 MiB each
        part = part.reshape(len(part), -1).astype(np.float32)
        # ‖x‖² is the same for all of a row and left out.
        squares.append(np.sum(part**2, axis=-1)[None] - 2 * x @ part.T)
    return np.argsort(np.concatenate(squares, axis=1), axis=1, kind="stable")[:, :count]
