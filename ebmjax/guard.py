"""A guard against bad steps, whose loss or gradient is unlike the recent ones.

A step is bad if its loss or its gradient's norm is not finite, or lies more than
`sigma` standard deviations above the mean of the recent good steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

WINDOW = 128  # steps: weights of older ones decay with 1 - 1/WINDOW
MIN_STEPS = 64  # good steps before any finite value counts as bad


class Guard(NamedTuple):
    """Moments of the loss and the gradient's norm over the good steps, and counters."""

    mean: jax.Array  # float32 [2]
    variance: jax.Array  # float32 [2]
    num_good: jax.Array  # int32, good steps so far
    num_skipped: jax.Array  # int32, bad steps so far
    skips_in_a_row: jax.Array  # int32, bad steps since the last good one


def init() -> Guard:
    # Arrays of their own, for a training step donates each of them.
    moments = (jnp.zeros(2, jnp.float32) for _ in range(2))
    return Guard(*moments, *(jnp.zeros((), jnp.int32) for _ in range(3)))


def forget(guard: Guard) -> Guard:
    """The guard without what it knows of recent steps; it still counts skipped ones."""
    return init()._replace(num_skipped=guard.num_skipped)


def is_bad(guard: Guard, values: jax.Array, sigma: float) -> jax.Array:
    """Whether a step with `values` [2], its loss and gradient norm, is bad.  -> []."""
    bound = guard.mean + sigma * jnp.sqrt(guard.variance)
    outlier = (guard.num_good >= MIN_STEPS) & jnp.any(values > bound)
    return outlier | ~jnp.all(jnp.isfinite(values))


def update(guard: Guard, values: jax.Array, bad: jax.Array) -> Guard:
    """The guard after a step; the values of a bad one do not enter the moments.

    Up to `WINDOW` good steps these are their plain mean and population variance, and
    then exponentially weighted ones.
    """
    num_good = guard.num_good + ~bad
    rate = jnp.maximum(1 / jnp.maximum(num_good, 1), 1 / WINDOW)
    difference = values - guard.mean
    mean = guard.mean + rate * difference
    variance = (1 - rate) * (guard.variance + rate * difference**2)
    return Guard(
        mean=jnp.where(bad, guard.mean, mean),
        variance=jnp.where(bad, guard.variance, variance),
        num_good=num_good,
        num_skipped=guard.num_skipped + bad,
        skips_in_a_row=jnp.where(bad, guard.skips_in_a_row + 1, 0),
    )
