"""What the attacks of AutoAttack share.

An attack is a pure function

    attack(keys, logits_fn, x, labels, targets, *, norm, eps, bounds) -> Found

keys [B] are random keys, one for each image, so that no result depends on the other
images of a batch. x is [B, ...], labels [B]; eps, a number or [B, 1, ...], is in the
units of x and `bounds`. A targeted attack aims at the classes `targets` [B]; the others
ignore them.
"""

from typing import NamedTuple

import jax


class Found(NamedTuple):
    """The result of an attack."""

    x: jax.Array  # [B, ...], the first wrong point within eps; x where there is none
    wrong: jax.Array  # [B] bool, whether there is one
    zero_gradient: jax.Array  # [B] bool: the gradient was 0 at the attack's start
    nan_gradient: jax.Array  # [B] bool: an entry was NaN at some point; taken as 0


def draw(sample, keys, shape, *args, **kwargs):
    """`sample(key, shape, ...)` for each image, stacked: [B, *shape]."""
    return jax.vmap(lambda key: sample(key, shape, *args, **kwargs))(keys)


def fold(keys, number):
    """A key for each image and this number."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def each(flags, x):
    """[B] -> [B, 1, ...], to broadcast against x."""
    return flags.reshape(-1, *[1] * (x.ndim - 1))
