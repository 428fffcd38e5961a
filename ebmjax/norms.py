"""The balls of adversarial attacks, L-infinity and L2, and what else acts image by
image."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ebmjax import energy

PerImage = float | jax.Array  # a number, or one for each image [B]


class Norm(NamedTuple):
    """The geometry of an attack. v, g are [B, ...]; eps is a number or [B, 1, ...]."""

    size: Callable[[jax.Array], jax.Array]  # v -> [B, 1, ...]
    steepest: Callable[[jax.Array], jax.Array]  # g -> the v of size 1 with max ⟨g, v⟩
    project: Callable[[jax.Array, jax.Array], jax.Array]  # v, eps -> size <= eps
    uniform: Callable[[jax.Array, jax.Array], jax.Array]  # key, v -> in the unit ball


def _linf_size(v):
    return jnp.max(jnp.abs(v), axis=tuple(range(1, v.ndim)), keepdims=True)


def _l2_size(v):
    return per_image(energy.norm(v), v)


def _l2_steepest(g):
    # First by the largest entry, for the norm itself may overflow; bounded as in
    # `energy.norm`.
    tiny = float(jnp.finfo(g.dtype).tiny)
    for size in (_linf_size, _l2_size):
        length = size(g)
        g = g / jnp.where(length < tiny, 1, jnp.minimum(length, 0.25 / tiny))
    return g


def _l2_project(v, eps):
    size = _l2_size(v)
    return v * jnp.minimum(1, eps / jnp.where(size > 0, size, 1))


def _l2_uniform(key, v):
    k_direction, k_radius = jax.random.split(key)
    direction = _l2_steepest(jax.random.normal(k_direction, v.shape, v.dtype))
    share = jax.random.uniform(k_radius, _l2_size(v).shape, v.dtype)
    return direction * share ** (1 / v[0].size)


NORMS = {
    "linf": Norm(
        size=_linf_size,
        steepest=jnp.sign,
        project=lambda v, eps: jnp.clip(v, -eps, eps),
        uniform=lambda key, v: jax.random.uniform(
            key, v.shape, v.dtype, minval=-1.0, maxval=1.0
        ),
    ),
    "l2": Norm(
        size=_l2_size,
        steepest=_l2_steepest,
        project=_l2_project,
        uniform=_l2_uniform,
    ),
}


def per_image(value, x):
    """A number, or one for each image [B], in x's dtype and broadcast against x."""
    value = jnp.asarray(value, x.dtype)
    if not value.ndim:
        return value
    chex.assert_shape(value, (len(x),))
    return value.reshape(-1, *[1] * (x.ndim - 1))


def clip(z, bounds):
    low, high = (jnp.asarray(bound, z.dtype) for bound in bounds)
    return jnp.clip(z, low, high)


def choose(condition, yes, no):
    """Leaf by leaf and image by image; `condition` is [B]."""

    def choose(a, b):
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, yes, no)
