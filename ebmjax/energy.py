"""A classifier read as an energy model (Grathwohl et al., 2020).

From logits f(x)[y]:  p(x, y) ∝ exp f(x)[y]  and  p(x) ∝ Σ_y exp f(x)[y].
Energies are in nats and unnormalised: only their differences mean anything.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import core

EnergyFn = Callable[[jax.Array], jax.Array]  # x [B, ...] -> [B]


def from_logits(logits: jax.Array) -> jax.Array:
    """E(x) = -logsumexp_y f(x)[y].  [B, K] -> [B]."""
    chex.assert_rank(logits, 2)
    return -jax.nn.logsumexp(logits, axis=-1)


def joint_from_logits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """E(x, y) = -f(x)[y].  [B, K], [B] int -> [B].

    A label outside 0..K-1 raises ValueError where its value is known, and gives
    NaN where it is traced, as under jit.
    """
    chex.assert_rank([logits, labels], [2, 1])
    chex.assert_equal_shape_prefix([logits, labels], 1)
    check_labels(labels, logits.shape[-1])
    # Past the end is filled with NaN, but a negative index would count from there.
    labels = jnp.asarray(labels, int)
    index = jnp.where(labels < 0, logits.shape[-1], labels)
    return -jnp.take_along_axis(logits, index[:, None], axis=-1, mode="fill")[:, 0]


def score(energy_fn: EnergyFn, x: jax.Array) -> jax.Array:
    """∇_x log p(x) = -∇_x E(x), example by example.  [B, ...] -> [B, ...].

    The gradient of the batch's sum is the gradient of each example only if the
    energy of one does not depend on the others, as it does with batch statistics.
    """

    def total(x):
        energies = energy_fn(x)
        chex.assert_shape(energies, (len(x),))
        return energies.sum()

    return -jax.grad(total)(x)


def approximate_mass(energy_fn: EnergyFn, x: jax.Array) -> jax.Array:
    """-‖∇_x log p(x)‖₂, near 0 where the mass of p lies.  [B, ...] -> [B], <= 0.

    Grathwohl et al. (2020), section 5.2. Differentiable, also where the score is 0.
    """
    return -norm(score(energy_fn, x))


def norm(v: jax.Array) -> jax.Array:
    """‖v‖₂ of each example, with derivative 0 at 0.  [B, ...] -> [B].

    Entries are scaled by the largest of their example before they are squared, so
    that no square under- or overflows. The scale cancels: it is a constant to
    differentiation, and derivatives of every order are those of ‖v‖₂. Norms below
    the smallest normal number of the dtype are 0; NaN stays NaN.
    """
    v = jnp.asarray(v)
    axes = tuple(range(1, v.ndim))
    largest = jnp.max(jnp.abs(v), axis=axes, keepdims=True, initial=0)
    largest = jax.lax.stop_gradient(largest)
    tiny = float(jnp.finfo(v.dtype).tiny)
    usable = (largest >= tiny) & (largest < jnp.inf)
    # XLA may divide by a multiplication, and the reciprocal must not underflow.
    scale = jnp.where(usable, jnp.minimum(largest, 0.25 / tiny), 1)
    square = jnp.sum((v / scale) ** 2, axis=axes)
    # √ has no derivative at 0: 1 takes its place there. Unlike `not usable`, this
    # is False for inf and NaN, which must come through.
    zero = (largest < tiny).reshape(len(v))
    root = jnp.sqrt(jnp.where(zero, 1, square))
    return jnp.where(zero, 0, scale.reshape(len(v)) * root)


def check_labels(labels: chex.Array, num_classes: int) -> None:
    """Raises ValueError for labels outside 0..num_classes-1, if they are known.

    Where they are traced, only their dtype is checked.
    """
    chex.assert_type(labels, int)
    values = known_value(labels)
    if values is None or not values.size:
        return
    low, high = values.min(), values.max()
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels lie in {low}..{high}, expected 0..{num_classes - 1} for"
            f" {num_classes} classes"
        )


def known_value(x: chex.Array) -> np.ndarray | None:
    """x for checks that cannot be compiled; None where its values are not known.

    They are not under a transformation such as jit, where x is traced, nor
    where other processes hold a part of x.
    """
    if isinstance(x, core.Tracer):
        return None
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return None
    return np.asarray(x)
