"""A classifier read as an energy model (Grathwohl et al., 2020).

From logits f(x)[y]:  p(x, y) ∝ exp f(x)[y]  and  p(x) ∝ Σ_y exp f(x)[y].
Energies are in nats and unnormalised: only their differences mean anything.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

EnergyFn = Callable[[jax.Array], jax.Array]  # x [B, ...] -> [B]


def from_logits(logits: jax.Array) -> jax.Array:
    """E(x) = -logsumexp_y f(x)[y].  [B, K] -> [B]."""
    return -jax.nn.logsumexp(logits, axis=-1)


def joint_from_logits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """E(x, y) = -f(x)[y].  [B, K], [B] int -> [B]."""
    return -jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def score(energy_fn: EnergyFn, x: jax.Array) -> jax.Array:
    """∇_x log p(x) = -∇_x E(x), example by example.  [B, ...] -> [B, ...].

    The gradient of the batch's sum is the per-example gradient only because
    examples do not meet in the network: no batch statistics.
    """
    return -jax.grad(lambda x: energy_fn(x).sum())(x)


def approximate_mass(energy_fn: EnergyFn, x: jax.Array) -> jax.Array:
    """-‖∇_x log p(x)‖₂, near 0 where mass gathers.  [B, ...] -> [B], all <= 0.

    Grathwohl et al. (2020), section 5.2. It may be differentiated, also where
    the score is zero.
    """
    return -norm(score(energy_fn, x))


def norm(v: jax.Array) -> jax.Array:
    """‖v‖₂ of each example; its derivative at 0 is 0, not NaN.  [B, ...] -> [B]."""
    square = jnp.sum(v.reshape(len(v), -1) ** 2, axis=-1)
    nonzero = square > 0  # √ has no derivative at 0, so it is kept away from it
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, square, 1.0)), 0.0)
