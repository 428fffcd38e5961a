"""Classifiers to attack, images that one of them gets right, and PGD compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax.eval import attacks


def linear(x, w):
    """Two classes, f_0 = -⟨w, x⟩ / 2, f_1 = ⟨w, x⟩ / 2.  [B, D] -> [B, 2]."""
    score = x @ w
    return jnp.stack([-score / 2, score / 2], axis=-1)


def network(x, classes=4):
    """Smooth, two layers, unsaturated.  [B, ...] -> [B, classes]."""
    x = x.reshape(len(x), -1)
    rng = np.random.default_rng(0)
    w = rng.normal(0, 1.0, (x.shape[1], 16)).astype(x.dtype)
    v = rng.normal(0, 1.0, (16, classes)).astype(x.dtype)
    return jnp.tanh(x @ w) @ v


def images(seed=0, size=40):
    """[B, 3, 3, 1] in [-0.9, 0.9] and the labels that `network` gives them."""
    x = np.random.default_rng(seed).uniform(-0.9, 0.9, (size, 3, 3, 1))
    x = jnp.asarray(x, jnp.float32)
    return x, network(x).argmax(axis=-1)


FIXED = (
    "logits_fn norm num_steps num_restarts random_start bounds loss targeted random"
    " early_stop"
)
compiled = jax.jit(attacks.pgd, static_argnames=FIXED.split())
pgd = functools.partial(compiled, eps=0.3, step_size=0.06, num_steps=15)
